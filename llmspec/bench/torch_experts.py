"""Mixtures of experts in PyTorch, as transformers writes them: a loop over the experts that some token takes.

Parameters have the Plan's names. Shape letters: N tokens, k experts of a token, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmspec.parts.base import Dims


class Stacked(nn.Module):
    """The weights, and biases, of one layer of every expert."""

    def __init__(self, experts: int, outputs: int, inputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(experts, outputs)) if bias else None

    def forward(self, expert: int, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[expert], None if self.bias is None else self.bias[expert])


class Router(nn.Module):
    """Logits of the experts, and the correction of the choice."""

    def __init__(self, part: Any, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(part.experts, width))
        self.correction = nn.Parameter(torch.empty(part.experts), requires_grad=False) if part.router_bias else None


class MixtureOfExperts(nn.Module):
    """Router, experts and the shared layer. `balance` is the load-balancing loss of the last pass."""

    def __init__(self, dims: Dims, part: Any, layer: Callable[[Dims, Any], nn.Module]) -> None:
        super().__init__()
        self.part, self.balance, self.drop = part, torch.zeros(()), nn.Dropout(0.0)
        self.activation: Any = layer(dims, part.expert).activation
        self.router = Router(part, dims.d_model)
        self.experts = nn.ModuleDict(
            {
                name: Stacked(part.experts, outputs, inputs, part.expert.bias)
                for name, (outputs, inputs) in part.expert.projections(dims).items()
            }
        )
        self.shared = layer(dims, part.shared) if part.shared is not None else None
        self.shared_gate = nn.Linear(dims.d_model, 1, bias=False) if part.shared_gate else None

    def forward(self, x: Tensor) -> Tensor:
        part, x_ND = self.part, x.reshape(-1, x.shape[-1])
        logits_NE = F.linear(x_ND, self.router.weight)
        scores_NE = logits_NE.sigmoid() if part.router == "sigmoid" else logits_NE.softmax(-1)
        wanted = scores_NE.detach() if self.router.correction is None else scores_NE.detach() + self.router.correction
        chosen_Nk = wanted.topk(part.top_k, -1).indices
        weights_Nk = scores_NE.gather(-1, chosen_Nk)
        if part.normalise:
            weights_Nk = weights_Nk / (weights_Nk.sum(-1, keepdim=True) + 1e-20)
        y_ND = self.mixed(x_ND, chosen_Nk, weights_Nk * part.scale)
        self.balance = part.balance * self.spread(scores_NE, chosen_Nk)
        if self.shared is not None:
            shared = self.shared(x_ND)
            y_ND = y_ND + (shared if self.shared_gate is None else self.shared_gate(x_ND).sigmoid() * shared)
        return y_ND.view_as(x)

    def mixed(self, x_ND: Tensor, chosen_Nk: Tensor, weights_Nk: Tensor) -> Tensor:
        """The sum of what each token's experts give, times their weights."""
        out = torch.zeros_like(x_ND)
        taken = F.one_hot(chosen_Nk, self.part.experts).permute(2, 1, 0)
        for (expert,) in torch.nonzero(taken.sum((1, 2))).tolist():
            rank, token = torch.where(taken[expert])
            h = x_ND[token]
            up = self.experts["up_proj"](expert, h)
            gated = "gate_proj" in self.experts
            h = self.activation(self.experts["gate_proj"](expert, h)) * up if gated else self.activation(up)
            y = self.experts["down_proj"](expert, self.drop(h)) * weights_Nk[token, rank, None]
            out.index_add_(0, token, y)
        return out

    def spread(self, scores_NE: Tensor, chosen_Nk: Tensor) -> Tensor:
        """Experts · Σ share of tokens · mean score (Fedus et al. 2022)."""
        if self.part.router == "sigmoid":
            scores_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
        share_E = F.one_hot(chosen_Nk, self.part.experts).float().sum(1).mean(0)
        return self.part.experts * (share_E * scores_NE.mean(0)).sum()
