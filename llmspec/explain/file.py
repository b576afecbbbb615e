"""What a GGUF file holds, from its metadata alone: tensors with their types, tokenizer, chat template, and what of it
is understood. Its numbers are not read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from llmspec.core.weight_types import TYPES
from llmspec.explain.model import TreeNode, model_tree
from llmspec.explain.report import Report
from llmspec.forecast.decoding import DecodingSpeed, speed
from llmspec.forecast.machine import memory_rate
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.metadata import ARCHITECTURE
from llmspec.formats.gguf.reading import Entry, Numbers, Texts
from llmspec.formats.gguf.tokenizers import BEFORE, TEMPLATE

LONGEST = 200
"""Characters of a value that are shown."""


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
    """The family of transformers that has the same networks."""
    parameters: int
    bits: float
    """Of a weight, on average."""
    layers: int
    d_model: int
    context: int
    """Tokens."""
    vocab: int
    tokenizer: str
    """Its model, and how it cuts text before its merges."""
    begins: str
    """The token that every text begins with; '' where none does."""
    ends: tuple[str, ...]
    """Tokens that end an answer."""
    chat_template: str
    """The template; '' where there is none, and the model continues a text."""
    license: str
    """As the file says it."""
    model: TreeNode
    types: tuple[TypeRow, ...]
    tensors: tuple[FileTensorRow, ...]
    keys: tuple[KeyRow, ...]
    remarks: tuple[str, ...]
    decoding: DecodingSpeed | None
    """What drawing a token reads, and how fast that is; None where the model draws no text."""


def explain_file(file: GGUFFile, time: bool = False) -> FileReport:
    """The report of a file; `time` measures how fast this machine reads weights first. Raises RunError with everything
    in it that is not understood."""
    plan, said = file.plan(), file.files.metadata
    codec_settings = file.tokenizing.settings
    types = type_rows(file.files.tensors)
    if time:
        memory_rate(plan.device)
    parameters = sum(row.parameters for row in types)
    end = codec_settings.get("eos")
    return FileReport(
        name=str(said.get("general.name", plan.name)),
        files=tuple(str(header.path) for header in file.files.headers),
        bytes=file.files.size,
        architecture=file.architecture_name,
        table=file.origin,
        parameters=plan.model.parameters,
        bits=8 * sum(row.bytes for row in types) / max(1, parameters),
        layers=plan.model.layers,
        d_model=plan.model.d_model,
        context=plan.model.context,
        vocab=plan.model.vocab,
        tokenizer=", ".join(str(said[BEFORE + name]) for name in ("model", "pre") if BEFORE + name in said),
        begins=file.tokenizing.begins,
        ends=(*([end] if end else []), *codec_settings["ends"]),
        chat_template=said.get(TEMPLATE, "") if isinstance(said.get(TEMPLATE, ""), str) else "",
        license=str(said.get("general.license", "")),
        model=model_tree(plan.name, plan.model),
        types=types,
        tensors=tensor_rows(file.files.tensors),
        keys=key_rows(said, {ARCHITECTURE, *file.read.read_keys}),
        remarks=tuple(file.notices()),
        decoding=speed(plan.model, plan.device, file.types()),
    )


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
