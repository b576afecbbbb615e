"""The network as a list of pieces: its shape is written down here, and everything else is a fold over it.

A block is a tuple of branches, each a part with the norms around it; a network is an embedding, stacks of blocks and
heads. The tensor table, costs, memory, checks, explanations and the peers' models go over `walk`; the forward pass
(llmspec/model/transformer.py) interprets the same branches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple, cast

from llmspec.compiler.plan import BlockPlan, ModelPlan, StackPlan
from llmspec.parts.adapters.base import AdapterTensor
from llmspec.parts.base import Dims, ElementwiseOps, ModelPart, TensorSpec
from llmspec.parts.positions import Position
from llmspec.parts.residual import FORMS

EMBEDDING = "embed_tokens"
"""The path of the token embedding."""
ADAPTED = ("attention", "cross_attention", "mlp")
"""Kinds of pieces whose linear layers may be adapted."""
Kind = Literal["embedding", "position", "attention", "cross_attention", "mlp", "norm", "head"]


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
    rate: float = 1.0
    """Tokens that it reads for each token of the model's context: an encoder reads its own text once."""
    stack: str = ""
    """The name of its stack; none of what belongs to no stack alone."""

    @property
    def copies(self) -> int:
        """How often its tensors exist."""
        return len(self.layers) or 1


def branches(block: BlockPlan) -> tuple[Branch, ...]:
    """The branches of a block in their order."""
    form, found = FORMS[block.residual], list[Branch]()
    parts: dict[str, ModelPart | None] = {
        "attention": block.attention,
        "cross_attention": block.cross_attention,
        "mlp": block.mlp,
    }
    for name, part in parts.items():
        if part is None:
            continue
        own = f"{name}_norm"
        found.append(
            Branch(
                name,
                part,
                before=own if form.before and name not in form.bare and not (form.shared and found) else "",
                after=(f"{name}_post_norm" if form.before else own) if form.after else "",
                on_sum=own if form.on_sum else "",
            )
        )
    return tuple(found)


def stack_dims(model: ModelPlan, stack: StackPlan) -> Dims:
    """The dimensions of a stack: its own context."""
    return replace(model.dims, context=stack.context or model.context)


def block_dims(model: ModelPlan, block: BlockPlan, stack: StackPlan | None = None) -> Dims:
    """The dimensions within a block: its heads, and the keys that its queries see. `stack` None: the decoder."""
    dims = stack_dims(model, stack or model.decoder)
    seen = block.mask.keys(dims.context)
    return replace(block.attention.shaped(dims), keys=seen, looks_ahead=not block.mask.causal)


def cross_dims(model: ModelPlan, block: BlockPlan) -> Dims:
    """The dimensions of a block's cross-attention: every query sees all tokens of the encoder."""
    assert block.cross_attention is not None
    keys = model.encoder_context
    return replace(block.cross_attention.shaped(model.dims), keys=keys, sources=keys / model.context)


def piece_dims(model: ModelPlan, block: BlockPlan, stack: StackPlan, kind: Kind) -> Dims:
    """The dimensions of a part of a block."""
    return cross_dims(model, block) if kind == "cross_attention" else block_dims(model, block, stack)


def rate(model: ModelPlan, stack: StackPlan) -> float:
    """Tokens that a stack reads for each token of the model's context."""
    return (stack.context or model.context) / model.context


def layer_path(stack: StackPlan, layer: int | str) -> str:
    """What the names of a layer's tensors begin with; `*` is every layer."""
    return f"{prefix(stack)}layers.{layer}"


def layer_dims(model: ModelPlan) -> list[Dims]:
    """The dimensions of each layer of the decoder, in their order."""
    kinds = [block_dims(model, block) for block in model.decoder.blocks]
    return [kinds[kind] for kind in model.decoder.order]


def cross_layers(model: ModelPlan) -> list[tuple[int, Dims]]:
    """(layer of the decoder, dimensions of its cross-attention) of those that have one."""
    blocks = model.decoder.blocks
    return [
        (layer, cross_dims(model, blocks[kind]))
        for layer, kind in enumerate(model.decoder.order)
        if blocks[kind].cross_attention is not None
    ]


def block_pieces(block: BlockPlan) -> Iterator[tuple[str, ModelPart, Kind]]:
    """(name, part, kind) of what a block holds, in the order of its tensors: a branch after its first norm."""
    for branch in branches(block):
        if first := branch.before or branch.on_sum or ("" if branch.before else branch.after):
            yield first, block.norm, "norm"
        yield branch.name, branch.part, cast(Kind, branch.name)
        if branch.after and branch.after != first:
            yield branch.after, block.norm, "norm"


def prefix(stack: StackPlan) -> str:
    """What the names of a stack's tensors begin with; nothing in a decoder."""
    return "" if stack.name == "decoder" else f"{stack.name}."


def positions(model: ModelPlan) -> dict[str, tuple[Position, Dims, int]]:
    """Name -> (part, dims of the first block that uses it, how often it is computed) of each position."""
    found: dict[str, tuple[Position, Dims, int]] = {}
    for stack in model.stacks:
        added = stack.position or model.position
        if added.embeds:
            found[embedded_position(stack)] = added, stack_dims(model, stack), 1
        for i, block in enumerate(stack.blocks):
            if not block.position.embeds:
                part, dims, uses = found.get(block.position_name, (block.position, block_dims(model, block, stack), 0))
                found[block.position_name] = part, dims, uses + len(stack.layers_of(i))
    return found


def follows_length(model: ModelPlan, stack: StackPlan) -> bool:
    """Whether positions of a stack's blocks hang on how long a text is, which padding must not count in."""
    return any(block.position.follows_length(block_dims(model, block, stack)) for block in stack.blocks)


def adds_losses(stack: StackPlan) -> bool:
    """Whether a part of a stack's blocks adds a loss of the tokens that it reads, of which padding is none."""
    return any(part.adds_losses for block in stack.blocks for _, part, _ in block_pieces(block))


def decided(piece: Piece, read: float) -> float:
    """What a head's FLOPs, of a token or of a sequence spread over its tokens, are multiplied with where it reads that
    share of the states: of each sequence one, or where a row holds several documents, of each of them."""
    per_document = piece.kind == "head" and read != 1.0 and getattr(piece.part, "per_sequence", False)
    return (read if piece.kind == "head" else 1.0) * (piece.dims.context if per_document else 1)


def embedded_position(stack: StackPlan) -> str:
    """The path of what is added to the embedding that a stack reads."""
    return f"{prefix(stack)}position"


def walk(model: ModelPlan) -> Iterator[Piece]:
    """Every piece of the network, those of equal layers as one."""
    yield Piece(EMBEDDING, model.embedding, model.dims, "embedding")
    for name, (position, dims, uses) in positions(model).items():
        yield Piece(name, position, dims, "position", uses=uses, rate=dims.context / model.context)
    for stack in model.stacks:
        reads = rate(model, stack)
        for i, block in enumerate(stack.blocks):
            layers = stack.layers_of(i)
            for name, part, kind in block_pieces(block) if layers else ():
                path, dims = f"{layer_path(stack, '*')}.{name}", piece_dims(model, block, stack, kind)
                yield Piece(path, part, dims, kind, layers, len(layers), block.name, reads, stack.name)
        if stack.final_norm is not None:
            yield Piece(
                f"{prefix(stack)}final_norm",
                stack.final_norm,
                stack_dims(model, stack),
                "norm",
                rate=reads,
                stack=stack.name,
            )
    for name, head in model.heads.items():
        yield Piece(head_path(name), head, model.dims, "head")


def head_path(name: str) -> str:
    """Prefix of a head's tensors."""
    return f"{name}_head"


Heads = str | Collection[str] | None
"""The name of a head, or of several; None: the first of a model."""


def head_paths(model: ModelPlan, heads: Heads) -> frozenset[str]:
    """Prefixes of the tensors of some heads."""
    if heads is None:
        heads = next(iter(model.heads), "")
    return frozenset(map(head_path, (heads,) if isinstance(heads, str) else heads))


class Copy(NamedTuple):
    """One of the copies of a piece."""

    path: str
    """Prefix of its tensors."""
    piece: Piece
    layer: int | None
    """Its layer, counted over all stacks; None outside blocks."""


def in_order(model: ModelPlan) -> Iterator[Copy]:
    """Every copy of a piece, in the order of the forward pass."""
    pieces, first, done = list(walk(model)), 0, set[str]()
    per_layer: dict[str, list[list[Piece]]] = {prefix(stack): [[] for _ in stack.order] for stack in model.stacks}
    for piece in pieces:
        for layer in piece.layers:
            per_layer[piece.path.partition("layers.*.")[0]][layer].append(piece)
    for piece in pieces:
        stack = piece.path.partition("layers.*.")[0]
        if not piece.layers:
            yield Copy(piece.path, piece, None)
        elif stack not in done:
            done.add(stack)
            for layer, own in enumerate(per_layer[stack]):
                for one in own:
                    yield Copy(one.path.replace("*", str(layer)), one, first + layer)
            first += len(per_layer[stack])


def tensor_specs(model: ModelPlan) -> Iterator[tuple[str, TensorSpec]]:
    """(full name, tensor) of every weight, in the order of the forward pass; an adapter's follow their layer's."""
    for copy in in_order(model):
        for name, tensor in named(copy.path, copy.piece):
            yield name, tensor
            layer = name.removesuffix(".weight")
            yield from ((f"{layer}.{t.spec.name}", t.spec) for t in beside(model, copy.piece, layer, tensor))


ADAPTED = ("attention", "cross_attention", "mlp")
"""Kinds of pieces whose linear layers may be adapted."""


def beside(model: ModelPlan, piece: Piece, layer: str, tensor: TensorSpec) -> tuple[AdapterTensor, ...]:
    """The adapter's tensors beside a layer, of whose weight this is the tensor; none where it is not adapted."""
    if model.adapter is None or piece.kind not in ADAPTED:
        return ()
    return model.adapter.beside(layer, tensor)


def adapter_matrices(model: ModelPlan) -> Iterator[tuple[Copy, TensorSpec]]:
    """(the piece that its layer belongs to, matrix) of every matrix of an adapter."""
    for copy in in_order(model) if model.adapter is not None else ():
        for name, tensor in named(copy.path, copy.piece):
            found = beside(model, copy.piece, name.removesuffix(".weight"), tensor)
            yield from ((copy, t.spec) for t in found if t.spec.role == "matrix")


def named(path: str, piece: Piece) -> Iterator[tuple[str, TensorSpec]]:
    """(full name, tensor) of a copy of a piece."""
    return ((f"{path}.{t.name}", t) for t in piece.part.tensors(piece.dims))


def rates(model: ModelPlan) -> dict[str, float]:
    """Tokens that the product with each matrix reads, for each token of the model's context; of those where that is
    another number than 1."""
    found = {}
    for path, piece, _ in in_order(model):
        for tensor in piece.part.tensors(piece.dims):
            if tensor.role == "matrix" and (plain := math.prod(tensor.shape)):
                found[f"{path}.{tensor.name}"] = piece.rate * piece.part.product(tensor, piece.dims) / (2.0 * plain)
    return {name: rate for name, rate in found.items() if rate != 1.0}


# -- folds ---------------------------------------------------------------------------------------------------------
def active_parameters(model: ModelPlan) -> int:
    """Number of weights that one token uses: all of them, but those of experts that it does not take."""
    return sum(piece.copies * piece.part.active(piece.dims) for piece in walk(model))


def forward_flops(model: ModelPlan, head: Heads = None, read: float = 1.0) -> float:
    """FLOPs of a forward pass per token at full context, matrix products only, with some of its heads, which read that
    share of the tokens' states."""
    chosen = head_paths(model, head)
    pieces = [p for p in walk(model) if p.kind != "head" or p.path in chosen]
    own = sum(2.0 * math.prod(t.shape) * copy.piece.rate for copy, t in adapter_matrices(model))
    return own + sum(p.uses * p.rate * p.part.flops(p.dims) * decided(p, read) for p in pieces)


class Backward(NamedTuple):
    """What the backward pass does with a copy of a piece."""

    piece: Piece
    layer: int | None
    """As in Copy."""
    through: bool
    """Whether something below it is trained, so that gradients pass through it."""
    trained: tuple[TensorSpec, ...]
    """Its own tensors that are trained."""

    @property
    def reached(self) -> bool:
        """Whether a gradient comes to it at all."""
        return self.through or bool(self.trained)


def backward(model: ModelPlan, head: Heads = None, apart: Collection[str] = ()) -> Iterator[Backward]:
    """Every copy of a piece in the order of the forward pass, with some of its heads; gradients of those that are
    `apart` do not reach the states that they read."""
    chosen, alone = head_paths(model, head), head_paths(model, apart)
    trained, below = {t.name for t in model.trained}, False
    for path, piece, layer in in_order(model):
        if piece.kind == "head" and path not in chosen:
            continue
        own = tuple(t for t in piece.part.tensors(piece.dims) if f"{path}.{t.name}" in trained)
        for name, tensor in named(path, piece):
            own += tuple(t.spec for t in beside(model, piece, name.removesuffix(".weight"), tensor))
        yield Backward(piece, layer, below and path not in alone, own)
        below = below or bool(own)


def reached_layers(model: ModelPlan) -> set[int]:
    """Layers, counted over all stacks, that a gradient comes to."""
    if all(t.trainable for t in model.tensors):
        return set(range(model.layers))
    return {copy.layer for copy in backward(model) if copy.layer is not None and copy.reached}


def backward_flops(model: ModelPlan, head: Heads = None, read: float = 1.0, apart: Collection[str] = ()) -> float:
    """FLOPs of a backward pass per token at full context, matrix products only, with some of its heads, which read that
    share of the tokens' states; `apart` as in `backward`.

    Each product of the forward pass gives one by its weights, where those are trained, and one by its inputs, where
    something below them is; those of attention's scores have no weights, and give two where a gradient comes to them.
    """
    # Of an adapter, both matrices are trained, and gradients pass through both.
    found = sum(4.0 * math.prod(t.shape) * copy.piece.rate for copy, t in adapter_matrices(model))
    embedded = any(t.trainable and t.name == f"{EMBEDDING}.weight" for t in model.tensors)
    for copy in backward(model, head, apart):
        piece, whole = copy.piece, copy.piece.part.flops(copy.piece.dims)
        if piece.kind == "head":
            trained = bool(copy.trained) or (embedded and bool(getattr(piece.part, "tied", False)))
            found += decided(piece, read) * whole * (trained + copy.through)
            continue
        matrices = [t for t in piece.part.tensors(piece.dims) if t.role == "matrix"]
        products = {t.name: piece.part.product(t, piece.dims) for t in matrices}
        first = copy.through or any(not t.residual for t in copy.trained)
        own = sum(products[t.name] for t in copy.trained if t.name in products)
        own += sum(products[t.name] for t in matrices if copy.through or (t.residual and first))
        own += 2 * (whole - sum(products.values())) * first
        found += piece.rate * own
    return found


def elementwise(model: ModelPlan, head: Heads = None, read: float = 1.0) -> ElementwiseOps:
    """Operations per token that are no product, with some of its heads, which read that share of the tokens' states;
    backward where a gradient comes."""
    found, some = ElementwiseOps(), any(t.trainable for t in model.tensors)
    for copy in backward(model, head):
        piece = copy.piece
        share = read if piece.kind == "head" else 1.0
        one = piece.part.elementwise(piece.dims).times(share * piece.rate * piece.uses / piece.copies)
        reached = some if piece.kind == "position" else copy.reached  # rotations belong to the layers that use them
        found = found.plus(one if reached else one._replace(backward=0.0))
    return found
