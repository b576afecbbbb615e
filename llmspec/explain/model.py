"""A network as a tree of parts and as a table of tensors, and who may look at whom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from llmspec.compiler.masks import Mask
from llmspec.compiler.plan import ModelPlan, Plan, TensorPlan
from llmspec.explain.report import described

Entry = tuple[tuple[str, ...], TensorPlan]
"""What is left of a tensor's dotted name, and the tensor."""


@dataclass(frozen=True)
class Node:
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
    children: tuple[Node, ...] = ()


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
def model_tree(name: str, model: ModelPlan) -> Node:
    """The network as a tree, equal layers folded into one."""
    grower = _Grower(model)
    children = grower.children([(tuple(t.name.split(".")), t) for t in model.tensors], 1)
    names = [c.name for c in children]
    if "position" not in names:
        children.insert(1, Node("position", "", grower.notes["position"], 1, 0, 0.0))
    if model.tied_embeddings:
        children.append(Node("lm_head", f"{model.d_model} → {model.vocab}", "tied", 1, 0, 0.0))
    return Node(name, "", "", 1, model.parameters, 1.0, tuple(children))


class _Grower:
    """Grows nodes out of dotted tensor names, so that a part nobody has thought of yet shows up like the others."""

    def __init__(self, model: ModelPlan) -> None:
        self.total = max(1, model.parameters)
        norm = f"{described(model.norm, 'eps', 'bias', 'placement')}, {model.norm.placement}"
        shared = "" if model.kv_heads == model.heads else f", {model.kv_heads} key/value"
        self.notes = {
            "attention": f"{model.heads}{' query' if shared else ''}{shared} heads × {model.head_dim}",
            "mlp": described(model.mlp, "bias"),
            "position": described(model.position),
            "attention_norm": norm,
            "mlp_norm": norm,
            "final_norm": norm,
        }

    def children(self, entries: list[Entry], copies: int) -> list[Node]:
        """One node for each first name, in the order of their first appearance."""
        groups: dict[str, list[Entry]] = {}
        for (first, *rest), tensor in entries:
            groups.setdefault(first, []).append((tuple(rest), tensor))
        return [self.node(name, found, copies) for name, found in groups.items()]

    def node(self, name: str, entries: list[Entry], copies: int) -> Node:
        """What is below one name; `copies` is how often all of it stands in the network."""
        count = copies * sum(t.count for _, t in entries)
        children: tuple[Node, ...] = ()
        times, shape = 1, ""
        if all(len(path) <= 1 for path, _ in entries):
            shape = _shape([t for _, t in entries])
        elif all(path[0].isdigit() for path, _ in entries):
            runs = self.runs(entries, copies)
            times, children = (runs[0].times, runs[0].children) if len(runs) == 1 else (1, tuple(runs))
        else:
            children = tuple(self.children(entries, copies))
        return Node(name, shape, self.notes.get(name, ""), times, count, count / self.total, children)

    def runs(self, entries: list[Entry], copies: int) -> list[Node]:
        """Neighbouring layers that are equal, as one node each."""
        layers = [list(found) for _, found in groupby(entries, key=lambda entry: entry[0][0])]
        nodes = []
        for _, same in groupby(layers, key=lambda layer: [(p[1:], t.shape, t.role, t.init) for p, t in layer]):
            run = list(same)
            first, last = run[0][0][0][0], run[-1][0][0][0]
            below = self.children([(path[1:], t) for path, t in run[0]], copies * len(run))
            count = sum(n.parameters for n in below)
            title = first if first == last else f"{first}–{last}"
            nodes.append(Node(title, "", "", len(run), count, count / self.total, tuple(below)))
        return nodes


def _shape(tensors: Sequence[TensorPlan]) -> str:
    """Shape of a module's weight as data flows through it, and whether a bias follows."""
    weight = next((t for t in tensors if t.role != "bias"), tensors[0])
    arrow = " → " if weight.role in ("matrix", "head") else " × "
    sizes = reversed(weight.shape) if arrow == " → " else weight.shape
    bias = any(t.role == "bias" for t in tensors if t is not weight)
    return arrow.join(map(str, sizes)) + (" + bias" if bias else "")


# -- masks ---------------------------------------------------------------------------------------------------------
DRAWN = (0, 0, 0, 1, 1, 1, 1, 2)
"""Documents of the block that is drawn: three tokens, four, and the first of another."""


def mask_pictures(plan: Plan) -> tuple[MaskPicture, ...]:
    """Both relations, drawn from the one that the graph is built with."""
    places = range(len(DRAWN))
    pictures = []
    for name, documents in (("causal", False), ("causal, own document only", True)):
        mask = Mask(documents)
        allowed = tuple(tuple(bool(mask.allows(q, k, DRAWN[q], DRAWN[k])) for k in places) for q in places)
        users = tuple(p.name for p in plan.phases if p.phase.document_mask == documents)
        pictures.append(MaskPicture(name, DRAWN, allowed, users))
    return tuple(pictures)
