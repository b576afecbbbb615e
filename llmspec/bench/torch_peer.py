"""A Plan in PyTorch, eager, as its users write it: the peer of a training step.

Parameters have the Plan's names. Shape letters: B batch, T tokens, H query heads, K key/value heads, d head width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmspec.bench.peer_support import require, unknown
from llmspec.compiler.plan import ModelPlan, Plan

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": partial(F.gelu, approximate="tanh"),
}
NORMS: dict[str, Callable[[Any], nn.Module]] = {
    "layernorm": lambda p: nn.LayerNorm(p.d_model, p.norm.eps, bias=p.norm.bias),
    "rmsnorm": lambda p: nn.RMSNorm(p.d_model, p.norm.eps),
}


class Attention(nn.Module):
    """Fused attention between four projections."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.plan, part, d = plan, plan.attention, plan.head_dim
        for name, heads in (("q", plan.heads), ("k", plan.kv_heads), ("v", plan.kv_heads)):
            setattr(self, f"{name}_proj", nn.Linear(plan.d_model, heads * d, bias=part.bias))
        self.o_proj = nn.Linear(plan.heads * d, plan.d_model, bias=bool(part.output_bias))

    def forward(self, x_BTD: Tensor, mask: Tensor | None, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        plan, (rows, length, _) = self.plan, x_BTD.shape
        q, k, v = (
            project(x_BTD).view(rows, length, -1, plan.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if turn is not None:
            q, k = turned(q, *turn), turned(k, *turn)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=plan.kv_heads != plan.heads
        )
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, plan.heads * plan.head_dim))


class MLP(nn.Module):
    """The plain or the gated feed-forward block."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[plan.mlp.activation]
        for name, (outputs, inputs) in plan.mlp.projections(plan.dims).items():
            setattr(self, name, nn.Linear(inputs, outputs, bias=plan.mlp.bias))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "gate_proj"):
            return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(self.activation(self.up_proj(x)))


class Block(nn.Module):
    """Attention and feed-forward block with their norms before or after them."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.pre, self.drop = plan.norm.placement == "pre", nn.Dropout(plan.dropout)
        self.attention_norm, self.attention = NORMS[plan.norm.kind](plan), Attention(plan)
        self.mlp_norm, self.mlp = NORMS[plan.norm.kind](plan), MLP(plan)

    def forward(self, x: Tensor, mask: Tensor | None, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.pre:
            x = x + self.drop(self.attention(self.attention_norm(x), mask, turn))
            return x + self.drop(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.drop(self.attention(x, mask, turn)))
        return self.mlp_norm(x + self.drop(self.mlp(x)))


class Peer(nn.Module):
    """The whole model. Raises BenchError for parts that it does not have."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        require("torch", plan)
        self.plan, self.kind = plan, plan.position.kind
        self.embed_tokens, self.drop = nn.Embedding(plan.vocab, plan.d_model), nn.Dropout(plan.dropout)
        if self.kind == "learned":
            self.position = nn.Embedding(plan.context, plan.d_model)
        for name, table in plan.position.tables(plan.dims).items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.layers = nn.ModuleList(Block(plan) for _ in range(plan.layers))
        if plan.norm.placement == "pre":
            self.final_norm = NORMS[plan.norm.kind](plan)
        if not plan.tied_embeddings:
            self.lm_head = nn.Linear(plan.d_model, plan.vocab, bias=False)

    def forward(
        self, tokens_BT: Tensor, documents_BT: Tensor | None = None, positions_BT: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V) of int64 tokens; with documents, tokens see only their own."""
        length = tokens_BT.shape[1]
        place = torch.arange(length, device=tokens_BT.device) if positions_BT is None else positions_BT
        x, turn = self.embed_tokens(tokens_BT), None
        if self.kind == "learned":
            x = x + self.position(place)
        elif self.kind == "sinusoidal":
            x = x + self.table[place]
        elif self.kind == "rope":  # (T, d), or (B, 1, T, d) beside heads
            cos, sin = self.cos[place], self.sin[place]
            turn = (cos, sin) if positions_BT is None else (cos.unsqueeze(1), sin.unsqueeze(1))
        mask, x = self.mask(length, documents_BT, place), self.drop(x)
        for block in self.layers:
            x = block(x, mask, turn)
        if self.plan.norm.placement == "pre":
            x = self.final_norm(x)
        return F.linear(x, self.embed_tokens.weight if self.plan.tied_embeddings else self.lm_head.weight)

    def mask(self, length: int, documents_BT: Tensor | None, place: Tensor) -> Tensor | None:
        """What attention adds or allows; None where plain causality will do, which the fused kernel knows itself."""
        if documents_BT is None and self.kind != "alibi":
            return None
        seen = torch.ones(length, length, dtype=torch.bool, device=place.device).tril()
        if documents_BT is not None:
            seen = seen & (documents_BT[:, None, :, None] == documents_BT[:, None, None, :])
        if self.kind != "alibi":
            return seen
        distance = (place.unsqueeze(-1) - place.unsqueeze(-2)).unsqueeze(-3)
        return (-self.slopes.view(-1, 1, 1) * distance).masked_fill(~seen, float("-inf"))


def turned(x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the half-split form (Su et al. 2021), as transformers applies them."""
    a, b = x_BHTd.chunk(2, -1)
    return x_BHTd * cos + torch.cat((-b, a), -1) * sin


def loaded(plan: Plan) -> Peer:
    """The peer with the plan's weights of step 0. Raises BenchError where its parameters are not the plan's."""
    from llmspec.model.weights import draw

    peer = Peer(plan.model)
    own, table_of = dict(peer.named_parameters()), {t.name: t for t in plan.model.tensors}
    if own.keys() != table_of.keys():
        raise unknown("torch", f"the tensors {sorted(own.keys() ^ table_of.keys())}", "parts of its own")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(torch.from_numpy(draw(table_of[name], plan.seed)))
    return peer
