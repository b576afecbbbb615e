"""Which tensors of a file are which of ours, by a mapping table: groups that lie together, joined and split."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from llmspec.compiler.plan import ModelPlan
from llmspec.compiler.walk import layer_dims
from llmspec.formats.hf.family import Architecture, Family, Mapped
from llmspec.parts.base import Dims

Shape = tuple[int, ...]
Arrays = dict[str, Any]
LEAVES = ("weight", "bias")


@dataclass(frozen=True)
class Group:
    """Tensors of a file and those of ours that are made of them."""

    theirs: tuple[tuple[str, Shape], ...]
    ours: tuple[tuple[str, Shape], ...]
    split: Callable[[Sequence[Any]], list[Any]]
    """Theirs -> ours, as views where that is possible."""
    join: Callable[[Sequence[Any]], list[Any]]
    """The reverse."""
    by_rows: bool = False
    """Whether ours are whole rows of one of theirs, so that it can be split in the type in which it lies."""


class Unmapped(ValueError):
    """A tensor of ours that the table has no name for."""


def groups(family: Family, architecture: Architecture, model: ModelPlan, prefixed: bool = True) -> list[Group]:
    """The tensors of a model as a file of the family has them. `prefixed`: whether the body's names begin with its
    prefix. Raises Unmapped."""
    shapes = {t.name: t.shape for t in model.tensors}
    dims = layer_dims(model)[0]
    prefix = family.tensors.prefix if prefixed else ""
    table = {prefix + theirs: mapped for theirs, mapped in family.tensors.map.items()}
    table |= {theirs: Mapped.model_validate({"to": ours}) for theirs, ours in architecture.tensors.items()}
    rules = [
        (theirs, mapped, i, _pattern(ours)) for theirs, mapped in table.items() for i, ours in enumerate(mapped.to)
    ]
    found: list[Group] = []
    done: set[str] = set()
    for name in shapes:
        if name in done:
            continue
        for theirs, mapped, _, pattern in rules:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            layer, leaf = match["layer"] if "layer" in match.groupdict() else "", match["leaf"] or ""
            if not mapped.needs or mapped.needs.replace("*", layer) + leaf in shapes:
                group = _group(theirs, mapped, layer, leaf, shapes, dims)
                break
        else:
            raise Unmapped(name)
        found.append(group)
        done.update(n for n, _ in group.ours)
    return found


def _pattern(ours: str) -> re.Pattern[str]:
    at = re.escape(ours).replace(r"\*", r"(?P<layer>\d+)")
    return re.compile(rf"{at}(?P<leaf>\.(?:{'|'.join(LEAVES)}))?")


def _group(theirs: str, mapped: Mapped, layer: str, leaf: str, shapes: Mapping[str, Shape], dims: Dims) -> Group:
    names = [ours.replace("*", layer) + leaf for ours in mapped.to]
    if missing := next((n for n in names if n not in shapes), None):
        raise Unmapped(missing)
    own = [(n, tuple(shapes[n])) for n in names]
    name = theirs.replace("*", layer) + leaf
    if mapped.stack:
        return _stacked(name, own[0], mapped.transposed)
    if len(own) == 1:
        shape = own[0][1]
        if mapped.transposed and len(shape) == 2:
            return Group(((name, shape[::-1]),), tuple(own), lambda a: [a[0].T], lambda a: [a[0].T])
        if mapped.rows == "interleaved":
            order = _neighbours(shape[0], dims.head_dim)
            back = order.argsort()
            return Group(((name, shape),), tuple(own), lambda a: [a[0][order]], lambda a: [a[0][back]], True)
        if mapped.offset:
            more = mapped.offset
            return Group(((name, shape),), tuple(own), lambda a: [a[0] - more], lambda a: [a[0] + more])
        return Group(((name, shape),), tuple(own), list, list, True)
    return _fused(name, own, mapped, dims.heads)


def _neighbours(rows: int, head_dim: int) -> Any:
    """Where the rows of our matrices, whose heads turn their halves together, lie where neighbours turn together."""
    import numpy as np

    return np.arange(rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _stacked(name: str, ours: tuple[str, Shape], transposed: bool) -> Group:
    import numpy as np

    count, *shape = ours[1]
    turned = (lambda a: a.T) if transposed else (lambda a: a)
    own = tuple(shape[::-1] if transposed else shape)
    theirs = tuple((name.replace("#", str(i)), own) for i in range(count))
    return Group(theirs, (ours,), lambda a: [np.stack([turned(x) for x in a])], lambda a: [turned(x) for x in a[0]])


def _fused(name: str, ours: list[tuple[str, Shape]], mapped: Mapped, heads: int) -> Group:
    """Several of ours, one below another in rows; or, with `heads`, row blocks of each head together."""
    import numpy as np

    rows = [shape[0] for _, shape in ours]
    whole = (sum(rows), *ours[0][1][1:])
    transposed = mapped.transposed and len(whole) == 2
    shape = whole[::-1] if transposed else whole

    def split(arrays: Sequence[Any]) -> list[Any]:
        array = arrays[0].T if transposed else arrays[0]
        if mapped.join == "heads":
            per = array.reshape(heads, len(rows), rows[0] // heads, *whole[1:])
            return [per[:, i].reshape(rows[0], *whole[1:]) for i in range(len(rows))]
        ends = list(accumulate(rows))
        return [array[end - n : end] for n, end in zip(rows, ends, strict=True)]

    def join(arrays: Sequence[Any]) -> list[Any]:
        if mapped.join == "heads":
            per = np.stack([a.reshape(heads, rows[0] // heads, *whole[1:]) for a in arrays], axis=1)
            return [per.reshape(whole)]
        array = np.concatenate(arrays, axis=0)
        return [array.T if transposed else array]

    return Group(((name, shape),), tuple(ours), split, join, not transposed and mapped.join != "heads")


def left_over(family: Family, names: Iterable[str], expected: Iterable[str]) -> tuple[list[str], list[str]]:
    """(names that nothing expects, names that hold no weights), of those in a file."""
    wanted = set(expected)
    rest = sorted(n for n in names if n not in wanted)
    idle = [n for n in rest if any(fnmatch.fnmatchcase(n, p) for p in family.tensors.ignored)]
    return [n for n in rest if n not in idle], idle
