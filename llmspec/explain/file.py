"""What a GGUF file holds, from its metadata alone: tensors with their types, tokenizer, chat template, and what of it
is understood. Its numbers are not read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, TypeVar

from llmspec.compiler.plan import Plan
from llmspec.core.problems import Problem, RunError
from llmspec.core.weight_types import TYPES
from llmspec.explain.model import TreeNode, model_tree
from llmspec.explain.report import Report
from llmspec.forecast.decoding import DecodingSpeed, speed
from llmspec.forecast.machine import memory_rate
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.metadata import ARCHITECTURE, TOKENS, Found
from llmspec.formats.gguf.reading import Entry, Numbers, Texts
from llmspec.formats.gguf.tables import Table
from llmspec.formats.gguf.tokenizers import BEFORE, TEMPLATE, Tokenizing

LONGEST = 200
"""Characters of a value that are shown."""
SIZES = {"layers": "block_count", "d_model": "embedding_length", "context": "context_length"}
"""What stands behind the name of any architecture (ggml-org/ggml, "GGUF")."""


@dataclass(frozen=True)
class TypeRow:
    """The tensors of one type."""

    type: str
    bits: float
    """Of a weight, scales counted in."""
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class FileTensorRow:
    """Tensors of the file that are equal but for their layer, `*`."""

    name: str
    count: int
    shape: tuple[int, ...]
    """Of each, outputs × inputs."""
    type: str
    bytes: int
    """Of all."""


@dataclass(frozen=True)
class KeyRow:
    """A key of metadata."""

    key: str
    value: str
    read: bool
    """Whether it shapes what is computed, or what text becomes."""


@dataclass(frozen=True)
class FileReport(Report):
    """A GGUF file."""

    about: ClassVar[str] = "file"
    name: str
    files: tuple[str, ...]
    bytes: int
    """Of all files."""
    architecture: str
    """As the file names it."""
    table: str
    """The family of transformers that has the same networks; '' where no table has the architecture."""
    parameters: int
    bits: float
    """Of a weight, on average."""
    layers: int | None
    """This and the next three as the file says them, where it is not understood; None where it says no number."""
    d_model: int | None
    context: int | None
    """Tokens."""
    vocab: int | None
    tokenizer: str
    """Its model, and how it cuts text before its merges."""
    begins: str | None
    """The token that every text begins with; '' where none does, None where the tokenizer is not understood."""
    ends: tuple[str, ...] | None
    """Tokens that end an answer; None where the tokenizer is not understood."""
    chat_template: str
    """The template; '' where there is none, and the model continues a text."""
    license: str
    """As the file says it."""
    model: TreeNode | None
    """None where the network is not understood."""
    types: tuple[TypeRow, ...]
    tensors: tuple[FileTensorRow, ...]
    keys: tuple[KeyRow, ...]
    remarks: tuple[str, ...]
    decoding: DecodingSpeed | None
    """What drawing a token reads, and how fast that is; None where the model draws no text, or is not understood."""
    problems: tuple[Problem, ...]
    """What is not understood, for which the file cannot be opened."""


Known = TypeVar("Known")


def explain_file(file: GGUFFile, time: bool = False) -> FileReport:
    """The report of a file; `time` measures how fast this machine reads weights first. What is not understood stands
    beside what needs no understanding. Raises RunError for a damaged file."""
    said, tensors, problems = file.files.metadata, file.files.tensors, list[Problem]()
    plan, tokenizing = _tried(file.plan, problems), _tried(lambda: file.tokenizing, problems)
    kinds = _tried(file.types, problems) if plan else None
    if plan and time:
        memory_rate(plan.device)
    types, read = type_rows(tensors), file.found
    parameters = sum(row.parameters for row in types)
    template = said.get(TEMPLATE, "")
    return FileReport(
        name=shown(said.get("general.name", plan.name if plan else file.path.name)),
        files=tuple(str(header.path) for header in file.files.headers),
        bytes=file.files.size,
        architecture=shown(said.get(ARCHITECTURE, "")),
        table=read.family.transformers if isinstance(read, Found) and isinstance(read.family, Table) else "",
        parameters=plan.model.parameters if plan else parameters,
        bits=8 * sum(row.bytes for row in types) / max(1, parameters),
        **sizes(said, plan),
        tokenizer=", ".join(shown(said[BEFORE + name]) for name in ("model", "pre") if BEFORE + name in said),
        begins=tokenizing.begins if tokenizing else None,
        ends=_ends(tokenizing) if tokenizing else None,
        chat_template=template if isinstance(template, str) else "",
        license=shown(said.get("general.license", "")),
        model=model_tree(plan.name, plan.model) if plan else None,
        types=types,
        tensors=tensor_rows(tensors),
        keys=key_rows(said, {ARCHITECTURE, *(read.read_keys if isinstance(read, Found) else ())}),
        remarks=tuple(file.notices()) if plan else (),
        decoding=speed(plan.model, plan.device, kinds) if plan and kinds is not None else None,
        problems=tuple(problems),
    )


def _tried(make: Callable[[], Known], problems: list[Problem]) -> Known | None:
    """What is made; None where that is refused, with the problems that are not yet among those there are."""
    try:
        return make()
    except RunError as error:
        problems += [problem for problem in error.problems if problem not in problems]
        return None


def _ends(tokenizing: Tokenizing) -> tuple[str, ...]:
    end = tokenizing.settings.get("eos")
    return (*([end] if end else []), *tokenizing.settings["ends"])


def sizes(said: Mapping[str, Any], plan: Plan | None) -> dict[str, int | None]:
    """How large the network is: as its plan has it, or without one as metadata say it of any architecture."""
    if plan:
        model = plan.model
        return {"layers": model.layers, "d_model": model.d_model, "context": model.context, "vocab": model.vocab}
    found: dict[str, int | None] = {}
    for name, key in SIZES.items():
        value = said.get(f"{said.get(ARCHITECTURE)}.{key}")
        found[name] = value if type(value) is int else None
    tokens = said.get(TOKENS)
    return {**found, "vocab": len(tokens) if isinstance(tokens, Texts) else None}


def type_rows(tensors: Mapping[str, Entry]) -> tuple[TypeRow, ...]:
    """How much is of which type, the most first."""
    found: dict[str, list[Entry]] = {}
    for entry in tensors.values():
        found.setdefault(entry.type, []).append(entry)
    rows = [
        TypeRow(kind, TYPES[kind].bits, len(own), sum(prod(e.shape) for e in own), sum(e.size for e in own))
        for kind, own in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def tensor_rows(tensors: Mapping[str, Entry]) -> tuple[FileTensorRow, ...]:
    """The tensors in the order of the file, those that are equal but for their layer as one."""
    found: dict[tuple[Any, ...], list[tuple[str, Entry]]] = {}
    for name, entry in tensors.items():
        found.setdefault((re.sub(r"\.\d+\.", ".*.", name), entry.shape, entry.type), []).append((name, entry))
    return tuple(
        FileTensorRow(
            pattern if len(own) > 1 else own[0][0], len(own), own[0][1].shape, kind, sum(e.size for _, e in own)
        )
        for (pattern, _, kind), own in found.items()
    )


def key_rows(metadata: Mapping[str, Any], read: Iterable[str]) -> tuple[KeyRow, ...]:
    """Every key with its value, cut where it is long."""
    known = {*read}
    return tuple(KeyRow(key, shown(v), key in known or key.startswith("tokenizer.")) for key, v in metadata.items())


def shown(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, Texts | Numbers):
        return f"{len(value):,} {'texts' if isinstance(value, Texts) else 'numbers'}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
