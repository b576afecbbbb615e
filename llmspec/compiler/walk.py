"""The network as a list of pieces: its shape is written down here, and everything else is a fold over it.

A block is a tuple of branches, each a part with the norms around it; a network is an embedding, stacks of blocks and
heads. The tensor table, costs, memory, checks, explanations and the peers' models go over `walk`; the forward pass
(llmspec/model/transformer.py) interprets the same branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from llmspec.compiler.plan import BlockPlan, ModelPlan, StackPlan
from llmspec.parts.base import Dims, ElementwiseOps, ModelPart, TensorSpec
from llmspec.parts.positions import Position
from llmspec.parts.residual import FORMS

EMBEDDING = "embed_tokens"
"""The path of the token embedding."""
Kind = Literal["embedding", "position", "attention", "mlp", "norm", "head"]


class Branch(NamedTuple):
    """A part of a block and the names of the norms around it; "" for none."""

    name: str
    part: ModelPart
    before: str
    """The norm that it reads the stream through."""
    after: str
    """The norm of what it gives."""
    on_sum: str
    """The norm of the stream once it has joined."""


class Piece(NamedTuple):
    """A part at its place in the network."""

    path: str
    """Prefix of its tensors; `*` stands for the layer in a piece of several layers."""
    part: ModelPart
    dims: Dims
    """With the heads of its own block."""
    kind: Kind
    layers: tuple[int, ...] = ()
    """The layers of its stack that have one of their own; none outside blocks."""
    uses: int = 1
    """How often a forward pass computes it."""
    block: str = ""
    """The name of its block in the spec."""

    @property
    def copies(self) -> int:
        """How often its tensors exist."""
        return len(self.layers) or 1


def branches(block: BlockPlan) -> tuple[Branch, ...]:
    """The branches of a block in their order."""
    form, found = FORMS[block.residual], list[Branch]()
    for name, part in (("attention", block.attention), ("mlp", block.mlp)):
        own = f"{name}_norm"
        found.append(
            Branch(
                name,
                part,
                before=own if form.before and not (form.shared and found) else "",
                after=(f"{name}_post_norm" if form.before else own) if form.after else "",
                on_sum=own if form.on_sum else "",
            )
        )
    return tuple(found)


def block_dims(model: ModelPlan, block: BlockPlan) -> Dims:
    """The dimensions within a block: its heads, and the keys that its queries see."""
    return replace(block.attention.shaped(model.dims), keys=block.mask.keys(model.context))


def layer_dims(model: ModelPlan) -> list[Dims]:
    """The dimensions of each layer, in their order, of all stacks."""
    kinds = [[block_dims(model, block) for block in stack.blocks] for stack in model.stacks]
    return [kinds[s][kind] for s, stack in enumerate(model.stacks) for kind in stack.order]


def block_pieces(block: BlockPlan) -> Iterator[tuple[str, ModelPart, Kind]]:
    """(name, part, kind) of what a block holds, in the order of its tensors: a branch after its first norm."""
    for branch in branches(block):
        if first := branch.before or branch.on_sum or ("" if branch.before else branch.after):
            yield first, block.norm, "norm"
        yield branch.name, branch.part, "attention" if branch.name == "attention" else "mlp"
        if branch.after and branch.after != first:
            yield branch.after, block.norm, "norm"


def prefix(stack: StackPlan) -> str:
    """What the names of a stack's tensors begin with; nothing in a decoder."""
    return "" if stack.name == "decoder" else f"{stack.name}."


def positions(model: ModelPlan) -> dict[str, tuple[Position, Dims, int]]:
    """Name -> (part, dims of the first block that uses it, how often it is computed) of each position."""
    found: dict[str, tuple[Position, Dims, int]] = {}
    if model.position.embeds:
        found["position"] = model.position, model.dims, 1
    for stack in model.stacks:
        for i, block in enumerate(stack.blocks):
            if not block.position.embeds:
                part, dims, uses = found.get(block.position_name, (block.position, block_dims(model, block), 0))
                found[block.position_name] = part, dims, uses + len(stack.layers_of(i))
    return found


def walk(model: ModelPlan) -> Iterator[Piece]:
    """Every piece of the network, those of equal layers as one."""
    yield Piece(EMBEDDING, model.embedding, model.dims, "embedding")
    for name, (position, dims, uses) in positions(model).items():
        yield Piece(name, position, dims, "position", uses=uses)
    for stack in model.stacks:
        for i, block in enumerate(stack.blocks):
            layers, dims = stack.layers_of(i), block_dims(model, block)
            for name, part, kind in block_pieces(block) if layers else ():
                path = f"{prefix(stack)}layers.*.{name}"
                yield Piece(path, part, dims, kind, layers, len(layers), block.name)
        if stack.final_norm is not None:
            yield Piece(f"{prefix(stack)}final_norm", stack.final_norm, model.dims, "norm")
    for name, head in model.heads.items():
        yield Piece(head_path(name), head, model.dims, "head")


def head_path(name: str) -> str:
    """Prefix of a head's tensors."""
    return f"{name}_head"


def tensor_specs(model: ModelPlan) -> Iterator[tuple[str, TensorSpec]]:
    """(full name, tensor) of every weight, in the order of the forward pass."""
    pieces = list(walk(model))
    per_layer: dict[str, list[list[Piece]]] = {prefix(stack): [[] for _ in stack.order] for stack in model.stacks}
    for piece in pieces:
        for layer in piece.layers:
            per_layer[piece.path.partition("layers.*.")[0]][layer].append(piece)
    done: set[str] = set()
    for piece in pieces:
        if not piece.layers:
            yield from _named(piece.path, piece)
            continue
        stack = piece.path.partition("layers.*.")[0]
        if stack not in done:
            done.add(stack)
            for layer, own in enumerate(per_layer[stack]):
                for one in own:
                    yield from _named(one.path.replace("*", str(layer)), one)


def _named(path: str, piece: Piece) -> Iterator[tuple[str, TensorSpec]]:
    return ((f"{path}.{t.name}", t) for t in piece.part.tensors(piece.dims))


# -- folds ---------------------------------------------------------------------------------------------------------
def forward_flops(model: ModelPlan, head: str | None = None) -> float:
    """FLOPs of a forward pass per token at full context, matrix products only, with one head; None: the first."""
    chosen = head_path(head if head is not None else next(iter(model.heads), ""))
    return sum(p.uses * p.part.flops(p.dims) for p in walk(model) if p.kind != "head" or p.path == chosen)


def elementwise(model: ModelPlan, head: str | None = None) -> ElementwiseOps:
    """Operations per token that are no product, with one head; None: the first."""
    chosen = head_path(head if head is not None else next(iter(model.heads), ""))
    return ElementwiseOps().plus(
        *(p.part.elementwise(p.dims).times(p.uses) for p in walk(model) if p.kind != "head" or p.path == chosen)
    )


def sites(model: ModelPlan) -> int:
    """Places of dropout: of the embedding and of what blocks add to the stream."""
    return 1 + sum(
        len(stack.layers_of(i)) * block_sites(block) for stack in model.stacks for i, block in enumerate(stack.blocks)
    )


def block_sites(block: BlockPlan) -> int:
    """Places of dropout in a block: of each branch, or of the sum of parallel ones."""
    return 1 if FORMS[block.residual].parallel else len(branches(block))
