"""A Plan in PyTorch, eager, as its users write it: the peer of a training step.

Parameters have the Plan's names. Shape letters: B batch, T tokens, H query heads, K key/value heads, d head width,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmspec.bench.peer_support import require, unknown
from llmspec.bench.torch_experts import MixtureOfExperts
from llmspec.compiler import walk
from llmspec.compiler.plan import BlockPlan, ModelPlan, Plan, StackPlan
from llmspec.parts.base import Dims
from llmspec.parts.mlps.gelu import OPERATIONS
from llmspec.parts.positions.learned import Learned
from llmspec.parts.positions.t5_relative import T5Relative
from llmspec.parts.residual import FORMS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": partial(F.gelu, approximate="tanh"),
    "gelu_erf": F.gelu,
    "relu2": lambda x: F.relu(x).square(),
}


def norm(part: Any, width: int) -> nn.Module:
    """A norm layer over the last axis."""
    if part.kind == "layernorm":
        return nn.LayerNorm(width, part.eps, bias=part.bias)
    return OffsetNorm(width, part.eps) if part.unit_offset else nn.RMSNorm(width, part.eps)


class OffsetNorm(nn.Module):
    """RMS norm whose factor is 1 + weight, as Gemma's."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, 1 + self.weight, self.eps)


class Embedding(nn.Embedding):
    """Vectors of tokens, which are all of the first type; `norm` is applied once positions were added."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__(plan.vocab, plan.d_model)
        part: Any = plan.embedding
        self.factor = math.sqrt(plan.d_model) if part.scale == "sqrt_d_model" else part.scale
        self.token_types = nn.Embedding(part.token_types, plan.d_model) if part.token_types else None
        self.norm = norm(part.norm, plan.d_model) if part.norm is not None else None

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = super().forward(tokens_BT)
        x = x if self.factor is None else x * self.factor
        return x if self.token_types is None else x + self.token_types.weight[0]


Seen: TypeAlias = Tensor | bool | None
"""What queries see: a mask or a bias; None for themselves and what came before, True for everything."""
Turn: TypeAlias = tuple[Tensor, Tensor] | None
"""Cosines and sines of rotary positions."""


class Attention(nn.Module):
    """Fused attention between four projections."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self, dims: Dims, part: Any) -> None:
        super().__init__()
        self.dims, self.scale, self.softcap, d = dims, part.scale, part.softcap, dims.head_dim
        for name, heads in (("q", dims.heads), ("k", dims.kv_heads), ("v", dims.kv_heads)):
            setattr(self, f"{name}_proj", nn.Linear(dims.d_model, heads * d, bias=part.bias))
        self.o_proj = nn.Linear(dims.heads * d, dims.d_model, bias=bool(part.output_bias))
        self.whole = part.qk_norm_over == "all_heads"
        if part.qk_norm:
            for name, heads in (("q", dims.heads), ("k", dims.kv_heads)):
                self.add_module(f"{name}_norm", norm(part.qk_norm, d * (heads if self.whole else 1)))
        self.sinks = nn.Parameter(torch.empty(dims.heads)) if part.sinks else None
        self.drop = nn.Dropout(0.0)

    def forward(self, x_BTD: Tensor, mask: Seen, turn: Turn, states_BSD: Tensor | None = None) -> Tensor:
        """With `states` keys and values are made of those."""
        dims, (rows, length, _) = self.dims, x_BTD.shape
        read = x_BTD if states_BSD is None else states_BSD
        q, k, v = (project(x) for project, x in ((self.q_proj, x_BTD), (self.k_proj, read), (self.v_proj, read)))
        if self.whole and hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (x.view(rows, x.shape[1], -1, dims.head_dim).transpose(1, 2) for x in (q, k, v))
        if not self.whole and hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        if turn is not None:
            q, k = turned(q, *turn), turned(k, *turn)
        y = self.attended(q, k, v, mask)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, dims.heads * dims.head_dim))

    def attended(self, q_BHTd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, mask: Seen) -> Tensor:
        """By the fused kernel; what that does not do, bounded scores and sinks, as transformers' eager attention."""
        grouped = self.dims.kv_heads != self.dims.heads
        causal, given = mask is None, mask if isinstance(mask, Tensor) else None
        if self.softcap is None and self.sinks is None:
            return F.scaled_dot_product_attention(
                q_BHTd,
                k_BKSd,
                v_BKSd,
                attn_mask=given,
                dropout_p=self.drop.p * self.training,
                is_causal=causal,
                scale=self.scale,
                enable_gqa=grouped,
            )
        if grouped:
            k_BKSd, v_BKSd = (t.repeat_interleave(self.dims.heads // self.dims.kv_heads, 1) for t in (k_BKSd, v_BKSd))
        scale = self.dims.head_dim**-0.5 if self.scale is None else self.scale
        scores = q_BHTd @ k_BKSd.mT * scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if causal:
            given = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if given is not None:
            scores = scores.masked_fill(~given, float("-inf")) if given.dtype == torch.bool else scores + given
        if self.sinks is not None:
            scores = torch.cat([scores, self.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
        return self.drop(scores.softmax(-1))[..., : v_BKSd.shape[2]] @ v_BKSd


class MLP(nn.Module):
    """The plain or the gated feed-forward block."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def __init__(self, dims: Dims, part: Any) -> None:
        super().__init__()
        self.activation, self.drop = ACTIVATIONS[part.activation], nn.Dropout(0.0)
        for name, (outputs, inputs) in part.projections(dims).items():
            setattr(self, name, nn.Linear(inputs, outputs, bias=part.bias))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "gate_proj"):
            return self.down_proj(self.drop(self.activation(self.gate_proj(x)) * self.up_proj(x)))
        return self.down_proj(self.drop(self.activation(self.up_proj(x))))


def feed_forward(dims: Dims, part: Any) -> nn.Module:
    """The module of a feed-forward layer."""
    return MixtureOfExperts(dims, part, MLP) if part.routes else MLP(dims, part)


class Block(nn.Module):
    """The branches of a block with their norms."""

    def __init__(self, plan: ModelPlan, stack: StackPlan, block: BlockPlan) -> None:
        super().__init__()
        self.block, self.form, self.drop = block, FORMS[block.residual], nn.Dropout(plan.drops.residual)
        for name, part, kind in walk.block_pieces(block):
            dims = walk.piece_dims(plan, block, stack, kind)
            made = norm(block.norm, plan.d_model) if kind == "norm" else None
            self.add_module(name, made or (feed_forward(dims, part) if kind == "mlp" else Attention(dims, part)))

    def forward(self, x: Tensor, mask: Seen, turn: Turn, states: Tensor | None = None) -> Tensor:
        h, total = x, None
        for branch in walk.branches(self.block):
            if not self.form.parallel:
                h = x
            if branch.before:
                h = self.through(branch.before, x)
            own = getattr(self, branch.name)
            given = {"attention": (mask, turn), "cross_attention": (True, None, states)}.get(branch.name, ())
            y = self.through(branch.after, own(h, *given))
            if self.form.parallel:
                total = y if total is None else total + y
            else:
                x = self.through(branch.on_sum, x + self.drop(y))
        return x if total is None else x + self.drop(total)

    def through(self, name: str, x: Tensor) -> Tensor:
        return getattr(self, name)(x) if name else x


class Transform(nn.Module):
    """The dense layer before the logits with its activation: weight and bias are its own."""

    def __init__(self, width: int, part: Any) -> None:
        super().__init__()
        dense = nn.Linear(width, width, bias=part.bias)
        self.weight, self.bias = dense.weight, dense.bias
        self.activation = ACTIVATIONS[OPERATIONS[part.approximate] if part.activation == "gelu" else part.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(F.linear(x, self.weight, self.bias))


class Head(nn.Module):
    """Logits of the next token, and what stands before and after them."""

    def __init__(self, plan: ModelPlan, part: Any) -> None:
        super().__init__()
        self.part, d = part, plan.d_model
        if part.transform is not None:
            self.transform = Transform(d, part.transform)
            if part.transform.norm is not None:
                self.transform_norm = norm(part.transform.norm, d)
        self.weight = None if part.tied else nn.Parameter(torch.empty(plan.vocab, d))
        self.bias = nn.Parameter(torch.empty(plan.vocab)) if part.bias else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        part = self.part
        if part.transform is not None:
            x = self.transform(x)
            x = self.transform_norm(x) if part.transform.norm is not None else x
        x = x if part.scale == 1 else x * part.scale
        y = F.linear(x, embedding if self.weight is None else self.weight, self.bias)
        return y if part.softcap is None else torch.tanh(y / part.softcap) * part.softcap


class Unread(nn.Module):
    """The parameters of a head beside the one whose outputs the steps train."""

    def __init__(self, plan: ModelPlan, part: Any) -> None:
        super().__init__()
        for tensor in part.tensors(plan.dims):
            *path, last = tensor.name.split(".")
            module: nn.Module = self
            for step in path:
                if not hasattr(module, step):
                    module.add_module(step, nn.Module())
                module = getattr(module, step)
            module.register_parameter(last, nn.Parameter(torch.empty(*tensor.shape)))


ADDED = {"alibi", "t5_relative"}
"""Positions that are added to the scores."""


class Stack(nn.Module):
    """The blocks of a stack, with what is added before and stands after them."""

    position_table: Tensor

    def __init__(self, plan: ModelPlan, stack: StackPlan) -> None:
        super().__init__()
        self.plan, self.stack, own = plan, stack, walk.prefix(stack)
        self.drop, self.positions = nn.Dropout(plan.drops.embedding), dict[str, Any]()
        for name, (part, dims, _) in walk.positions(plan).items():
            if not name.startswith(own or "position"):
                continue
            self.positions[name] = part
            if isinstance(part, Learned):
                self.position = nn.Embedding(dims.context + part.offset, plan.d_model)
            elif isinstance(part, T5Relative):
                self.add_module(name.removeprefix(own), nn.Embedding(part.buckets, dims.heads))
            for key, table in part.tables(dims).items():
                self.register_buffer(self.named(name, key), torch.from_numpy(table), persistent=False)
        self.layers = nn.ModuleList(Block(plan, stack, stack.blocks[kind]) for kind in stack.order)
        if stack.final_norm is not None:
            self.final_norm = norm(stack.final_norm, plan.d_model)

    def named(self, position: str, key: str) -> str:
        """The name of a position's table among the module's buffers."""
        return f"{position.removeprefix(walk.prefix(self.stack))}_{key}".replace(".", "_")

    def run(
        self,
        embed: Embedding,
        tokens_BT: Tensor,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """States (B, T, D) of int64 tokens; with documents, tokens see only their own."""
        length = tokens_BT.shape[1]
        place = torch.arange(length, device=tokens_BT.device) if positions_BT is None else positions_BT
        x, added = embed(tokens_BT), self.positions.get(walk.embedded_position(self.stack))
        if added is not None and added.embeds:
            x = x + (self.position(place + added.offset) if added.kind == "learned" else self.position_table[place])
        if embed.norm is not None:
            x = embed.norm(x)
        seen = {b.mask: self.mask(length, documents_BT, b) for b in self.stack.blocks}
        turns = {b.position_name: self.turn(b, place) for b in self.stack.blocks}
        x = self.drop(x)
        for layer, kind in zip(self.layers, self.stack.order, strict=True):
            block = self.stack.blocks[kind]
            x = layer(x, self.biased(block, seen[block.mask], place), turns[block.position_name], states)
        return x if self.stack.final_norm is None else self.final_norm(x)

    def table(self, block: BlockPlan, key: str) -> Tensor:
        """A constant table of a block's position."""
        return getattr(self, self.named(block.position_name, key))

    def turn(self, block: BlockPlan, place: Tensor) -> Turn:
        """Cosines and sines at each place: (T, d), or (B, 1, T, d) beside heads; None where nothing is rotated."""
        if block.position.kind != "rope":
            return None
        cos, sin = self.table(block, "cos")[place], self.table(block, "sin")[place]
        return (cos, sin) if place.ndim == 1 else (cos.unsqueeze(1), sin.unsqueeze(1))

    def mask(self, length: int, documents_BT: Tensor | None, block: BlockPlan) -> Seen:
        """What a block's queries see; None or True where the fused kernel knows it itself."""
        plain = documents_BT is None and block.mask.window is None and not ADDED & {block.position.kind}
        if plain and block.mask.kind in ("causal", "bidirectional"):
            return None if block.mask.causal else True
        place = torch.arange(length, device=self.layers[0].attention.q_proj.weight.device)
        seen = block.mask.allows(place[:, None], place[None])
        if documents_BT is not None:
            seen = seen & (documents_BT[:, None, :, None] == documents_BT[:, None, None, :])
        return seen

    def biased(self, block: BlockPlan, seen: Seen, place: Tensor) -> Seen:
        """What a block's attention adds to its scores, or which it allows."""
        if block.position.kind not in ADDED or not isinstance(seen, Tensor):
            return seen
        distance = (place.unsqueeze(-1) - place.unsqueeze(-2)).unsqueeze(-3)
        if block.position.kind == "t5_relative":
            buckets = self.table(block, "buckets")
            row = buckets[(len(buckets) // 2 - distance.squeeze(-3)).clamp(0, len(buckets) - 1)].long()
            bias = getattr(self, block.position_name.removeprefix(walk.prefix(self.stack)))(row).movedim(-1, -3)
            return bias.masked_fill(~seen, float("-inf"))
        slopes = self.table(block, "slopes").view(-1, 1, 1)
        return (-slopes * distance).masked_fill(~seen, float("-inf"))


class Peer(Stack):
    """The whole model: the decoder, and beside it what belongs to no stack alone. Raises BenchError for parts that it
    does not have."""

    def __init__(self, plan: ModelPlan) -> None:
        require("torch", plan)
        super().__init__(plan, plan.decoder)
        self.embed_tokens = Embedding(plan)
        for name, head in plan.heads.items():
            self.add_module(walk.head_path(name), Head(plan, head) if name == "lm" else Unread(plan, head))
        if plan.encoder is not None:
            self.encoder = Stack(plan, plan.encoder)
        for module in self.modules():
            if isinstance(module, Attention | MLP | MixtureOfExperts):
                module.drop.p = plan.drops.attention if isinstance(module, Attention) else plan.drops.mlp

    def forward(
        self,
        tokens_BT: Tensor,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        encoder_tokens_BS: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of int64 tokens, without padding; with documents, tokens see only their own."""
        states = None
        if encoder_tokens_BS is not None:
            states = self.encoder.run(self.embed_tokens, encoder_tokens_BS)
        x = self.run(self.embed_tokens, tokens_BT, documents_BT, positions_BT, states)
        return self.lm_head(x, self.embed_tokens.weight)


def turned(x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the half-split form (Su et al. 2021), as transformers applies them.

    Of a head's first numbers: as many as the tables are wide.
    """
    x, rest = x_BHTd[..., : cos.shape[-1]], x_BHTd[..., cos.shape[-1] :]
    a, b = x.chunk(2, -1)
    x = x * cos + torch.cat((-b, a), -1) * sin
    return torch.cat((x, rest), -1) if rest.shape[-1] else x


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
