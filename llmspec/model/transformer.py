"""The forward pass of a Plan: a pure function of weights and inputs that interprets the plan's blocks.

Shape letters: B batch, T queries, S keys, D width, K key/value heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from tinygrad import Tensor

from llmspec.backends.plain.ops import Ops
from llmspec.compiler import walk
from llmspec.compiler.inputs import NOISE
from llmspec.compiler.masks import ENCODER, RANGES
from llmspec.compiler.plan import BlockPlan, ModelPlan, StackPlan
from llmspec.core.hashing import digest
from llmspec.model.weight_view import Weights
from llmspec.parts.attentions import Attention
from llmspec.parts.heads import HeadFunctions
from llmspec.parts.objectives.base import Outputs
from llmspec.parts.ops import CrossView, Kept, WeightLayout
from llmspec.parts.positions import Hooks
from llmspec.parts.residual import FORMS

CROSSED = "cross_attention"
"""The branch that looks at the encoder's states."""


class LayerContext(NamedTuple):
    """What the queries of one layer see."""

    queries: Tensor  # (B or 1, T) int32: positions
    keys: Tensor  # (B or 1, S) int32: positions
    ranges: Tensor  # (B or 1, T, 2) int32: the keys first … end - 1 that a query sees
    cache: Callable[[Tensor, int], tuple[Kept, Kept] | None] | None
    """Takes heads of queries, keys and values side by side (B, T, H + 2K, d) and H, gives all keys and values that the
    queries may see; None: the new ones alone."""
    cross: CrossView | None = None
    """The encoder's keys and values, where the layer looks at them."""


Through = Callable[..., Tensor]
"""through(f, w, *inputs): what f(w, *inputs) gives."""


def at_once(function: Callable[..., Tensor], w: Weights, *inputs: Tensor) -> Tensor:
    """The function itself."""
    return function(w, *inputs)


@dataclass(frozen=True)
class AttentionContext:
    """What the queries of one call see: their positions, the keys' positions, the masks, and the KV cache."""

    queries: Tensor  # (B or 1, T) int32
    keys: Tensor  # (B or 1, S) int32
    ranges: Mapping[str, Tensor]  # by mask name: (B or 1, T, 2) int32
    cache: Callable[[int, Tensor, int], tuple[Kept, Kept] | None] | None = None
    """The same of any layer, whose number comes first."""
    filled: Tensor | None = None
    """Which tokens are no padding, (B, T) bool; None where there is none."""
    crossed: Callable[[int], tuple[Tensor, Tensor]] | None = None
    """Keys and values of the encoder's states for a layer, where they are kept; None: they are made of its text."""

    through: Through = at_once
    """How a part of the pass is carried out, of which one may keep a record."""

    def at(self, layer: int, mask: str) -> LayerContext:
        """What the queries of a layer see."""
        cache = self.cache
        own = None if cache is None else lambda qkv, heads: cache(layer, qkv, heads)
        return LayerContext(self.queries, self.keys, self.ranges[mask], own)


def ranges_in(inputs: Mapping[str, Tensor], prefix: str = RANGES) -> dict[str, Tensor]:
    """The ranges among a graph's inputs, by mask name."""
    return {name.removeprefix(prefix): t for name, t in inputs.items() if name.startswith(prefix)}


def encoder_context(inputs: Mapping[str, Tensor]) -> AttentionContext:
    """The context of the texts that an encoder reads."""
    tokens = int(inputs[f"{ENCODER}tokens"].shape[1])
    given = inputs.get(f"{ENCODER}positions")
    positions = Tensor.arange(tokens).reshape(1, tokens) if given is None else given
    ranges = ranges_in(inputs, RANGES + ENCODER)
    return AttentionContext(positions, positions, ranges, filled=inputs.get(f"{ENCODER}filled"))


def block_context(inputs: Mapping[str, Tensor]) -> AttentionContext:
    """The context of whole blocks of tokens; positions count from a document's start where they are given."""
    tokens = int(inputs["tokens"].shape[1])
    given = inputs.get("positions")
    positions = Tensor.arange(tokens).reshape(1, tokens) if given is None else given
    return AttentionContext(positions, positions, ranges_in(inputs), filled=inputs.get("filled"))


def graph_key(plan: ModelPlan, layouts: Mapping[str, WeightLayout], *more: Any) -> str:
    """A name for what shapes the graphs of a model beside their inputs."""
    shaped = [*more, plan.model_dump(mode="json"), *([sorted(layouts.items())] if layouts else [])]
    return digest(shaped if len(shaped) > 1 else shaped[0])


class Block:
    """The functions of one kind of block."""

    def __init__(self, model: ModelPlan, stack: StackPlan, block: BlockPlan, hooks: Hooks) -> None:
        dims = walk.block_dims(model, block, stack)
        self.cross = block.cross_attention.build_cross(walk.cross_dims(model, block)) if block.cross_attention else None
        self.plan, self.form, self.branches = block, FORMS[block.residual], walk.branches(block)
        self._norm = block.norm.build(dims)
        self._functions: dict[str, Any] = {
            branch.name: branch.part.build(dims, hooks)
            if isinstance(branch.part, Attention)
            else branch.part.build(dims)
            for branch in self.branches
            if branch.name != CROSSED
        }

    def forward(
        self, ops: Ops, w: Weights, pw: Weights, x: Tensor, context: LayerContext, last: Tensor | None = None
    ) -> Tensor:
        """The stream (B, T, D) after the block; with `last` (B,) int32 those tokens' alone, (B, 1, D)."""
        if self.form.parallel:
            return self._parallel(ops, w, pw, x, context, last)
        for branch in self.branches:
            h = self.normed(ops, w, branch.before, x)
            y = self.normed(ops, w, branch.after, self.branch(ops, w, pw, branch.name, h, context))
            x = self.normed(ops, w, branch.on_sum, ops.residual(x, y))
            if last is not None and branch.name == "attention":
                x = rows_at(x, last)
                if (cross := context.cross) is not None:
                    context = context._replace(cross=cross._replace(ranges=rows_at(cross.ranges, last)))
        return x

    def _parallel(
        self, ops: Ops, w: Weights, pw: Weights, x: Tensor, context: LayerContext, last: Tensor | None
    ) -> Tensor:
        """Both branches read one stream, and one sum takes what they give."""
        total, h = None, x
        for branch in self.branches:
            h = self.normed(ops, w, branch.before, x) if branch.before else h
            y = self.branch(ops, w, pw, branch.name, h, context)
            total = y if total is None else total + y
        assert total is not None
        x = ops.residual(x, total)
        return x if last is None else rows_at(x, last)

    def branch(self, ops: Ops, w: Weights, pw: Weights, name: str, h: Tensor, context: LayerContext) -> Tensor:
        """What a branch gives."""
        if name == CROSSED:
            assert self.cross is not None and context.cross is not None
            return self.cross.attend(ops, w.under(name), h, context.cross)
        if name == "attention":
            return self._functions[name](ops, w.under(name), pw, h, context)
        return self._functions[name](ops, w.under(name), h)

    def normed(self, ops: Ops, w: Weights, name: str, x: Tensor) -> Tensor:
        """x through the norm of that name; as it is without one."""
        return ops.contiguous_barrier(self._norm(ops, w.under(name), x)) if name else x


def rows_at(x_BTD: Tensor, last: Tensor) -> Tensor:
    """(B, 1, D): the states at the places `last` (B,) int32."""
    return x_BTD.gather(1, last.reshape(-1, 1, 1).expand(x_BTD.shape[0], 1, x_BTD.shape[2])).contiguous()


def states_at(ops: Ops, x_BTD: Tensor, places_BK: Tensor) -> Tensor:
    """(B, K, D): the states at some places (B, K) int32 of each row."""
    rows, length, width = (int(n) for n in x_BTD.shape)
    return ops.embedding(x_BTD.reshape(rows * length, width), places_BK + Tensor.arange(rows).reshape(-1, 1) * length)


class Stack:
    """The functions of a stack's blocks, and of what stands before and after them."""

    def __init__(self, model: ModelPlan, stack: StackPlan, hooks: Mapping[str, Hooks]) -> None:
        self.plan = stack
        added = hooks.get(walk.embedded_position(stack)) if (stack.position or model.position).embeds else None
        self.embed_position = added.embed if added else None
        self._blocks = [
            Block(model, stack, b, Hooks() if b.position.embeds else hooks[b.position_name]) for b in stack.blocks
        ]
        dims = walk.stack_dims(model, stack)
        self.final_norm = stack.final_norm.build(dims) if stack.final_norm is not None else None

    def block(self, layer: int) -> Block:
        """The functions of a layer."""
        return self._blocks[self.plan.order[layer]]


class Transformer:
    """The functions of a ModelPlan's parts, put together. Holds no weights.

    `layouts` are those of weights that stay quantised, by name.
    """

    def __init__(
        self,
        plan: ModelPlan,
        layouts: Mapping[str, WeightLayout] = MappingProxyType({}),
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        """`frozen` names the weights that training leaves as they are; nobody else has to say so."""
        self.plan, self._layouts, self._frozen = plan, layouts, frozen
        self.positions = {name: (part, dims) for name, (part, dims, _) in walk.positions(plan).items()}
        """By full name, each with the dimensions of its stack."""
        hooks = {name: part.build(dims) for name, (part, dims) in self.positions.items()}
        self._embedding = plan.embedding.build(plan.dims)
        self._stacks = [Stack(plan, stack, hooks) for stack in plan.stacks]
        self._heads: dict[str, HeadFunctions] = {name: head.build(plan.dims) for name, head in plan.heads.items()}

    def watch(self, see: Callable[[Stack], Stack]) -> None:
        """Puts other stacks, made of its own by `see`, in their place."""
        self._stacks = [see(stack) for stack in self._stacks]

    def _view(self, tensors: Mapping[str, Tensor]) -> Weights:
        if isinstance(tensors, Weights):
            return tensors
        return Weights(tensors, layouts=self._layouts, frozen=self._frozen, adapter=self.plan.adapter)

    def tables(self) -> dict[str, Any]:
        """Constant float32 numpy arrays of the positions, by full name; inputs of every step, never trained."""
        return {f"{name}.{k}": v for name, (part, dims) in self.positions.items() for k, v in part.tables(dims).items()}

    def hidden(
        self,
        ops: Ops,
        tensors: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        context: AttentionContext,
        last: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) before the heads; `tensors` holds weights and tables by full name, `inputs` what the
        embedding reads: `tokens` (B, T) int32.

        With `last` (B,) int32 those tokens' alone, (B, 1, D): what follows the others' last attention is left out.
        """
        w = self._view(tensors)
        *encoders, decoder = self._stacks
        states: Tensor | None = None
        if encoders and context.crossed is None:
            states = self.encoded(ops, w, inputs, context.through)
        return self._run(ops, w, decoder, inputs, context, last, states)

    def encoded(
        self, ops: Ops, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor], through: Through = at_once
    ) -> Tensor:
        """The encoder's last states (B, S, D) of `encoder_tokens` (B, S) int32."""
        w = self._view(tensors)
        own = {name.removeprefix(ENCODER): t for name, t in inputs.items() if name.startswith(ENCODER)}
        return self._run(ops, w, self._stacks[0], own, replace(encoder_context(inputs), through=through))

    def crossed(self, ops: Ops, tensors: Mapping[str, Tensor], states: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, K, d) that a layer of the decoder looks at, of the encoder's states (B, S, D)."""
        w = self._view(tensors)
        decoder = self._stacks[-1]
        cross = decoder.block(layer).cross
        assert cross is not None
        return cross.keys_values(ops, w.under(walk.layer_path(decoder.plan, layer)).under(CROSSED), states)

    def _run(
        self,
        ops: Ops,
        w: Weights,
        stack: Stack,
        inputs: Mapping[str, Tensor],
        context: AttentionContext,
        last: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """What a stack makes of its inputs (B, T, D), looking at the encoder's states (B, S, D) where there are any."""
        plan, ops.counted, norm = stack.plan, context.filled, stack.final_norm
        through = context.through

        def begun(w: Weights) -> Tensor:
            return ops.contiguous_barrier(
                ops.dropout(self.embedded(ops, w, inputs, context.queries, stack), "embedding")
            )

        def layer_of(number: int) -> Callable[..., Tensor]:
            return lambda w, x, *states: self._layer(ops, w, stack, number, context, last, x, *states)

        x = through(begun, w)
        for layer in range(len(plan.order)):
            x = through(layer_of(layer), w, x, *(() if states is None else (states,)))
        if norm is None:
            return x
        return through(
            lambda w, x: ops.contiguous_barrier(norm(ops, w.under(f"{walk.prefix(plan)}final_norm"), x)), w, x
        )

    def _layer(
        self,
        ops: Ops,
        w: Weights,
        stack: Stack,
        layer: int,
        context: AttentionContext,
        last: Tensor | None,
        x: Tensor,
        states: Tensor | None = None,
    ) -> Tensor:
        """What a layer makes of its input."""
        block, at_end = stack.block(layer), last if layer == len(stack.plan.order) - 1 else None
        bw, pw = w.under(walk.layer_path(stack.plan, layer)), w.under(block.plan.position_name)
        view = context.at(layer, block.plan.mask.name)
        if block.cross is not None:
            if context.crossed is not None:
                made = context.crossed(layer)
            else:
                assert states is not None
                made = self.crossed(ops, w, states, layer)
            view = view._replace(cross=CrossView(made, context.ranges["cross"]))
        return block.forward(ops, bw, pw, x, view, at_end)

    def embedded(
        self, ops: Ops, w: Weights, inputs: Mapping[str, Tensor], positions: Tensor, stack: Stack | None = None
    ) -> Tensor:
        """What a stack's first block reads, (B, T, D): tokens with what is added of positions (B or 1, T), and the
        norm. `stack` None: the decoder."""
        stack = stack or self._stacks[-1]
        own = w.under(walk.EMBEDDING)
        x = self._embedding.vectors(ops, own, inputs)
        x = x + inputs[NOISE] if NOISE in inputs else x
        if stack.embed_position:
            x = stack.embed_position(ops, w.under(walk.embedded_position(stack.plan)), x, positions)
        return x if self._embedding.norm is None else self._embedding.norm(ops, own, x)

    def outputs(
        self,
        ops: Ops,
        tensors: Mapping[str, Tensor],
        hidden: Tensor,
        head: str | None = None,
        filled: Tensor | None = None,
    ) -> Outputs:
        """What a head makes of hidden states (B, T, D), but for its last layer; `head` None: the one that generates."""
        w = self._view(tensors)
        name = self.head_name(head)
        own, functions = w.under(walk.head_path(name)), self._heads[name]
        embedding = w.under(walk.EMBEDDING).linear("") if getattr(self.plan.heads[name], "tied", False) else None
        features = functions.features(ops, own, hidden, filled)
        return Outputs(features, functions.layer(own, embedding), functions.softcap)

    def head(
        self,
        ops: Ops,
        tensors: Mapping[str, Tensor],
        hidden: Tensor,
        head: str | None = None,
        filled: Tensor | None = None,
    ) -> Tensor:
        """Outputs of a head, logits (B, T, V) of one that generates, of hidden states (B, T, D)."""
        found = self.outputs(ops, tensors, hidden, head, filled)
        if found.layer is None:
            return found.features
        y = ops.linear(found.features, found.layer)
        return y if found.softcap is None else ops.softcap(y, found.softcap)

    def logits(
        self, ops: Ops, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor], context: AttentionContext
    ) -> Tensor:
        """Logits (B, T, V) by the head that generates."""
        return self.head(ops, tensors, self.hidden(ops, tensors, inputs, context))

    def head_name(self, head: str | None) -> str:
        """A head's name; of None that of the one that generates, or else the first."""
        return head or self.plan.generating_head or next(iter(self.plan.heads))
