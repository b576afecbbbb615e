"""A network as a tree of parts and as a table of tensors, and who may look at whom."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmspec.compiler import walk
from llmspec.compiler.inputs import documents_apart
from llmspec.compiler.masks import Relation, cross_ranges, masks_of
from llmspec.compiler.plan import BlockPlan, ModelPlan, Plan, TensorPlan
from llmspec.explain.report import described
from llmspec.parts.base import TensorSpec
from llmspec.parts.heads import Head
from llmspec.parts.masks import Mask
from llmspec.parts.masks.causal import Causal


@dataclass(frozen=True)
class TreeNode:
    """A part of the network. The parameters of a node are the sum of its children's, where it has some."""

    name: str
    shape: str
    """`192 → 512` for a matrix (inputs → outputs), `2048 × 192` for an embedding, `192` for a vector."""
    note: str
    """What kind of part it is."""
    times: int
    """How many equal ones stand behind this node."""
    parameters: int
    """Trained numbers in all equal ones together."""
    share: float
    """Of the whole network's parameters."""
    children: tuple[TreeNode, ...] = ()


@dataclass(frozen=True)
class TensorRow:
    """One weight of the table."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    role: str
    init: str
    """How it starts: `ones`, `zeros` or `normal 0.02` (standard deviation)."""
    dtype: str


@dataclass(frozen=True)
class MaskPicture:
    """Who may look at whom in a small block: `allowed[query][key]`."""

    name: str
    documents: tuple[int, ...]
    """Which document each place belongs to."""
    allowed: tuple[tuple[bool, ...], ...]
    used_by: tuple[str, ...]
    """Phases that train with it."""


# -- the tensor table ----------------------------------------------------------------------------------------------
def tensor_rows(model: ModelPlan) -> tuple[TensorRow, ...]:
    """Every tensor, in the order of the forward pass."""
    return tuple(TensorRow(t.name, t.shape, t.count, t.role, _init(t), t.dtype) for t in model.tensors)


def _init(tensor: TensorPlan) -> str:
    return f"normal {tensor.init.std:.3g}" if tensor.init.distribution == "normal" else tensor.init.distribution


def folded(rows: Sequence[TensorRow]) -> list[tuple[str, int, TensorRow]]:
    """(name with `*` for the layer, how many, one of them) of tensors that are equal but for their layer."""
    found: dict[tuple[object, ...], list[TensorRow]] = {}
    for row in rows:
        found.setdefault((re.sub(r"\.\d+\.", ".*.", row.name), row.shape, row.init, row.dtype), []).append(row)
    return [(str(key[0]) if len(equal) > 1 else equal[0].name, len(equal), equal[0]) for key, equal in found.items()]


# -- the tree ------------------------------------------------------------------------------------------------------
def model_tree(name: str, model: ModelPlan) -> TreeNode:
    """The network as a tree: a node for each piece, equal layers as one."""
    blocks: dict[tuple[str, str], list[walk.Piece]] = {}
    for piece in walk.walk(model):
        if piece.layers:
            blocks.setdefault((piece.path.partition("*")[0], piece.block), []).append(piece)
    children, encoder, stacks = list[TreeNode](), list[TreeNode](), set[str]()
    of_encoder = walk.prefix(model.encoder) if model.encoder is not None else None
    for piece in walk.walk(model):
        stack = piece.path.partition("*")[0]
        inside = of_encoder is not None and piece.path.startswith(of_encoder)
        before = of_encoder if of_encoder and inside else ""
        if not piece.layers:
            node = _piece(model, piece)
        elif stack not in stacks:
            stacks.add(stack)
            kinds = [own for (of, _), own in blocks.items() if of == stack]
            node = _layers(model, stack.removesuffix("."), kinds)
        else:
            continue
        (encoder if inside else children).append(replace(node, name=node.name.removeprefix(before)))
    if model.encoder is not None:
        count = sum(node.parameters for node in encoder)
        whole = TreeNode("encoder", "", _reads(model), 1, count, count / max(1, model.parameters), tuple(encoder))
        children.insert(1, whole)
    return TreeNode(name, "", "", 1, model.parameters, 1.0, tuple(children))


def _reads(model: ModelPlan) -> str:
    return f"reads up to {model.encoder_context:,} tokens of its own"


def _layers(model: ModelPlan, name: str, kinds: Sequence[Sequence[walk.Piece]]) -> TreeNode:
    """The layers of a stack, by kind of block where there are several."""
    nodes = []
    for pieces in kinds:
        below = tuple(_piece(model, piece) for piece in pieces)
        count, layers = sum(n.parameters for n in below), pieces[0].layers
        which = f"layer{'s' * (len(layers) > 1)} {spans_of(layers)}"
        nodes.append(TreeNode(pieces[0].block, which, "", len(layers), count, count / max(1, model.parameters), below))
    if len(nodes) == 1:
        return replace(nodes[0], name=name, shape="")
    count = sum(n.parameters for n in nodes)
    return TreeNode(name, "", "", 1, count, count / max(1, model.parameters), tuple(nodes))


def spans_of(layers: Sequence[int]) -> str:
    """Numbers in order, neighbours joined: `0–4, 6–10`."""
    runs = list[list[int]]()
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _piece(model: ModelPlan, piece: walk.Piece) -> TreeNode:
    """A piece with the tensors of all its copies."""
    tensors = piece.part.tensors(piece.dims)
    count = piece.copies * sum(math.prod(t.shape) for t in tensors)
    name, note = piece.path.rpartition("*.")[2], _note(model, piece)
    groups: dict[str, list[TensorSpec]] = {}
    for t in tensors:
        groups.setdefault(t.name.rpartition(".")[0], []).append(t)
    total = max(1, model.parameters)
    if set(groups) <= {""}:
        return TreeNode(name, _shape(tensors) if tensors else _without(model, piece), note, 1, count, count / total)
    below = []
    for inner, own in groups.items():
        held = piece.copies * sum(math.prod(t.shape) for t in own)
        outer = {"embedding": "tokens", "attention": own[0].name}.get(piece.kind, "output")
        below.append(TreeNode(inner or outer, _shape(own), "", 1, held, held / total))
    return TreeNode(name, "", note, 1, count, count / total, tuple(below))


def _without(model: ModelPlan, piece: walk.Piece) -> str:
    """The shape of a head that has no tensors of its own."""
    head = piece.part
    return f"{model.d_model} → {head.outputs(model.dims)}" if isinstance(head, Head) else ""


def _note(model: ModelPlan, piece: walk.Piece) -> str:
    """What kind of part it is."""
    part, dims = piece.part, piece.dims
    if isinstance(part, Head):
        others = [] if part.kind == "lm" else [described(part)]
        return ", ".join([*others, *(["tied"] if getattr(part, "tied", False) else [])])
    if piece.kind in ("attention", "cross_attention"):
        shared = "" if dims.kv_heads == dims.heads else f", {dims.kv_heads} key/value"
        mask = _block(model, piece).mask
        seen = "" if mask == Causal() else f", {mask_name(mask)}"
        if piece.kind == "cross_attention":
            seen = ", over the encoder's states"
        return f"{dims.heads}{' query' if shared else ''}{shared} heads × {dims.head_dim}{seen}"
    if piece.kind == "norm":
        block = f", {_block(model, piece).residual}" if piece.layers else ""
        return f"{described(part, 'eps', 'bias')}{block}"
    if piece.kind == "embedding":
        return described(part, "kind", "token_types", "norm")
    whole = getattr(part, "fraction", None) == 1  # of a rotary position that turns whole heads
    return described(part, "bias", *(["fraction"] if whole else []))


def _block(model: ModelPlan, piece: walk.Piece) -> BlockPlan:
    """The block that a piece belongs to."""
    return next(
        block
        for stack in model.stacks
        if piece.path.startswith(walk.layer_path(stack, "*"))
        for block in stack.blocks
        if block.name == piece.block
    )


def mask_name(mask: Mask) -> str:
    """A mask in words: `causal, window of 256`."""
    return mask.kind if mask.window is None else f"{mask.kind}, window of {mask.window:,}"


def _shape(tensors: Sequence[TensorSpec]) -> str:
    """Shape of a module's weight as data flows through it, and whether a bias follows."""
    weight = next((t for t in tensors if t.role != "bias"), tensors[0])
    arrow = " → " if weight.role in ("matrix", "head") else " × "
    copies = f"{weight.shape[0]} × " if len(weight.shape) > 2 else ""
    shape = weight.shape[-2:]
    sizes = reversed(shape) if arrow == " → " else shape
    bias = any(t.role == "bias" for t in tensors if t is not weight)
    return copies + arrow.join(map(str, sizes)) + (" + bias" if bias else "")


# -- masks ---------------------------------------------------------------------------------------------------------
DRAWN = (0, 0, 0, 1, 1, 1, 1, 2)
"""Documents of the block that is drawn: three tokens, four, and the first of another."""
ALONE, FILLED = (0,) * len(DRAWN), len(DRAWN) - 2
"""The same of a model with an encoder, whose rows have one text; and how many of an encoder's tokens are no padding."""
NARROW = 3
"""A window that is wider than that is drawn as wide."""


def mask_pictures(plan: Plan) -> tuple[MaskPicture, ...]:
    """Every mask of the network, with documents together and apart, drawn from the relation that the graph is built
    with."""
    places, pictures, model = range(len(DRAWN)), list[MaskPicture](), plan.model
    several = sum(len(masks_of(model, stack)) for stack in model.stacks) > 1
    for stack in model.stacks:
        for mask in masks_of(model, stack).values():
            window = mask.window and min(mask.window, NARROW)
            drawn = mask.model_copy(update={"window": window})
            own = mask_name(mask) + (f" (drawn as {window})" if window != mask.window else "")
            layers = [layer for layer, kind in enumerate(stack.order) if stack.blocks[kind].mask == mask]
            name = "encoder " if stack is model.encoder else ""
            of = f", {name}layer{'s' * (len(layers) > 1)} {spans_of(layers)}" if several else ""
            for documents in (False, True) if model.encoder is None else (False,):
                relation = Relation(drawn, documents)
                # The first token of each text stands for a prefix.
                first = [DRAWN.index(d) if documents else 0 for d in DRAWN]
                allowed = tuple(
                    tuple(bool(relation.allows(q, k, DRAWN[q], DRAWN[k], k - first[k] < 2)) for k in places)
                    for q in places
                )
                users = tuple(p.name for p in plan.phases if documents_apart(model, p.phase) == documents)
                title = f"{own}, own document only{of}" if documents else f"{own}{of}"
                pictures.append(MaskPicture(title, DRAWN if model.encoder is None else ALONE, allowed, users))
    if model.encoder is not None:
        pictures.append(_cross_picture(plan))
    return tuple(pictures)


def _cross_picture(plan: Plan) -> MaskPicture:
    """What the decoder's tokens see of an encoder's text whose last tokens are padding."""
    ranges = cross_ranges([FILLED], len(ALONE))[0].tolist()
    allowed = tuple(tuple(first <= key < end for key in range(len(ALONE))) for first, end in ranges)
    name = f"cross-attention to {FILLED} tokens of the encoder and {len(ALONE) - FILLED} of padding"
    return MaskPicture(name, ALONE, allowed, tuple(p.name for p in plan.phases))
