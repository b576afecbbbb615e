"""The tensors of a GGUF file as those of a model: matrices in their types, everything else in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem, RunError
from llmspec.core.quantised import Quantised
from llmspec.core.weight_types import TYPES
from llmspec.formats.gguf.files import Files
from llmspec.formats.gguf.tables import LM, Table
from llmspec.formats.hf.names import Group, groups, left_over

PACKED = ("matrix", "head")
"""Roles of tensors that may stay in a type of the file: what linear layers read. The embedding may, too."""
EMBEDDING = "embed_tokens.weight"


def load(
    files: Files,
    table: Table,
    model: ModelPlan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Our tensors by name. Raises RunError with every tensor that is missing, left over or of another shape, and for
    numbers that are NaN or infinite."""
    found: dict[str, Any] = {}
    wanted = groups(table, table.architectures[LM], model)
    check(files, wanted, table)
    roles = {tensor.name: tensor.role for tensor in model.tensors}
    for done, group in enumerate(wanted):
        progress(done, len(wanted))
        theirs = [_finite(files, name, shape) for name, shape in group.theirs]
        packed = stays(group, roles, [t.type for t in theirs])
        arrays = theirs if packed else [t.dequantised() for t in theirs]
        found.update(zip((n for n, _ in group.ours), group.split(arrays), strict=True))
    return found


def types(files: Files, table: Table, model: ModelPlan) -> dict[str, str]:
    """The types of our tensors that stay as they lie in the file. Raises RunError for names and shapes, as `load`."""
    wanted = groups(table, table.architectures[LM], model)
    check(files, wanted, table)
    roles, found = {tensor.name: tensor.role for tensor in model.tensors}, dict[str, str]()
    for group in wanted:
        own = [files.tensors[name].type for name, _ in group.theirs]
        if stays(group, roles, own):
            found.update((name, own[min(i, len(own) - 1)]) for i, (name, _) in enumerate(group.ours))
    return found


def stays(group: Group, roles: Mapping[str, str], types: Sequence[str]) -> bool:
    """Whether tensors of those types stay as they lie: in blocks or 16 bits, and read by products or look-ups alone."""
    read = all(roles[name] in PACKED or name == EMBEDDING for name, _ in group.ours)
    return read and all(TYPES[type].narrow for type in types)


def check(files: Files, wanted: list[Group], table: Table) -> None:
    """Raises RunError with every tensor that is missing, left over or of another shape."""
    expected = {name: shape for group in wanted for name, shape in group.theirs}
    problems: list[Problem] = []

    def wrong(what: str, names: list[str]) -> None:
        if names:
            some = ", ".join(n[:80] for n in names[:5]) + (" …" if len(names) > 5 else "")
            problems.append(Problem(f"{files.path}: {len(names)} {what}: {some}"))

    rest, _ = left_over(table, files.tensors, expected)
    wrong("tensors are missing that its metadata ask for", [n for n in expected if n not in files.tensors])
    wrong("tensors have no place in the model of its metadata", rest)
    for name, shape in expected.items():
        there = files.tensors[name].shape if name in files.tensors else shape
        if without_ones(there) != without_ones(shape):
            problems.append(
                Problem(
                    f"{files.path}: {name} is {list(there)}, and its metadata make it {list(shape)}",
                    consequence="its numbers would be misread",
                )
            )
    if problems:
        raise RunError(problems)


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of 1 before its last, which the format does not keep."""
    return (*(n for n in shape[:-1] if n != 1), *shape[-1:])


def _finite(files: Files, name: str, shape: tuple[int, ...]) -> Quantised:
    found = files.quantised(name).reshaped(*shape)
    finite = found.finite()
    found.let_go()
    if not finite:
        raise RunError(
            f"{files.path}: {name} has numbers that are NaN or infinite",
            hint="download it again; if it was made so, it is broken",
            consequence="everything computed would be NaN",
        )
    return found
