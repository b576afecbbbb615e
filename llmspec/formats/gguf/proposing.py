"""A model's plan -> metadata of a GGUF file, by the same mapping tables that read them, each proposal read back before
it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import LlmspecError, RunError
from llmspec.formats.gguf import rope
from llmspec.formats.gguf.metadata import ARCHITECTURE, TOKENS, WIDE, read_metadata
from llmspec.formats.gguf.tables import FACT, LM, Table, shared, tables
from llmspec.formats.hf.family import RopeOf
from llmspec.formats.hf.names import Group, Unmapped, groups
from llmspec.formats.hf.rope import Unreadable
from llmspec.formats.hf.same_model import differences, planned, settings_of
from llmspec.formats.hf.writing import fields_of, layer_fields, layer_types
from llmspec.parts.rope_scalings.llama3 import Llama3
from llmspec.spec.schema import ModelSpec

FILE = "the file"


@dataclass(frozen=True)
class Proposal:
    """Metadata that read back as the very model."""

    table: Table
    metadata: dict[str, Any]
    """Those of the network, `general.architecture` first."""
    groups: tuple[Group, ...]
    """The tensors as the file has them."""
    frequencies: tuple[float, ...] | None
    """What wavelengths of rotary positions are multiplied with, where that is a tensor of the file."""


def proposal_of(model: ModelPlan, prefer: str = "", only: str = "") -> Proposal:
    """What a file says of a network: by the table `prefer` where that has its parts, else by the first that does, in
    alphabetical order; with `only` by that one.

    Raises LlmspecError where no table does, with what the nearest lacks."""
    known = tables()
    if only and only not in known:
        raise LlmspecError(f"no architecture of GGUF files is called `{only}`", hint=f"there are: {', '.join(known)}")
    nearest: tuple[int, int, str, str] | None = None
    for name in (
        [only]
        if only
        else sorted(known, key=lambda n: (prefer not in (n, known[n].model_type, known[n].transformers), n))
    ):
        found = _proposed(model, known[name])
        if isinstance(found, Proposal):
            return found
        lacks = (found.far, len(found.why), name, "; ".join(found.why[:4]))
        nearest = lacks if nearest is None else min(nearest, lacks, key=lambda one: one[:2])
    assert nearest is not None
    raise LlmspecError(
        f"no architecture of GGUF files{' called ' + only if only else ''} has a model of these parts",
        hint=f"nearest is {nearest[2]}, which differs in (here and there) {nearest[3]}",
        consequence="llama.cpp would compute something else",
    )


class Lacks(NamedTuple):
    """What of a model a table cannot say."""

    why: list[str]
    far: int = 0
    """-1 where only a tensor lacks that is not the network's, 0 where metadata say a network that differs, 1 where they
    say none, 2 where a tensor of it has no name."""


def _proposed(model: ModelPlan, table: Table) -> Proposal | Lacks:
    """What a table's metadata say of a model; or what they cannot say of it."""
    try:
        every = tuple(groups(table, table.architectures[LM], model))
    except Unmapped as error:
        return Lacks([f"the tensor {error}, which it has no name for"], far=2)
    settings = settings_of(model)
    config = fields_of(settings, table, table.architectures[LM], shared())
    try:
        config |= _layers(table, settings)
        frequencies = _frequencies(settings)
    except Unreadable as error:
        return Lacks([str(error)])
    config |= {name: config[other] for name, other in table.equal.items() if name not in config and other in config}
    said = {f"{table.model_type}.{k}": v for k, v in config.items() if not k.startswith(FACT) and v is not None}
    metadata = {ARCHITECTURE: table.model_type, **said}
    names = [name for group in every for name, _ in group.theirs]
    wrong = _wrong(model, metadata, names, frequencies)
    wrong = wrong or _unread(table, settings, names)
    return wrong or Proposal(table, metadata, every, frequencies)


def _unread(table: Table, settings: Mapping[str, Any], names: Sequence[str]) -> Lacks | None:
    """Why llama.cpp would not read a file that says the model; None where it would."""
    why = [f"the tensor {name}, which llama.cpp asks for" for name in table.needed if name not in names]
    width, wanted = settings["attention"]["heads"] * _head_dim(settings), settings["d_model"]
    if table.square and width != wanted:
        why.append(f"heads that are {width:,} wide together, where llama.cpp asks for the {wanted:,} of the model")
    return Lacks(why, far=-1) if why else None


def _wrong(
    model: ModelPlan, metadata: Mapping[str, Any], names: Sequence[str], frequencies: Sequence[float] | None
) -> Lacks | None:
    """What of a model proposed metadata do not say; None where they say it."""
    found = read_metadata({**metadata, TOKENS: range(model.vocab)}, names, frequencies, FILE)
    if isinstance(found, list) or found.problems:
        return Lacks([p.message for p in (found if isinstance(found, list) else found.problems)], far=1)
    try:
        made = planned(ModelSpec.model_validate_json(json.dumps(found.model)))
    except ValidationError as error:
        return Lacks([f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()], far=1)
    except (ArithmeticError, ValueError, TypeError, RunError) as error:
        return Lacks([str(error)], far=1)
    apart = differences(model, made)
    return Lacks(apart) if apart else None


def _layers(table: Table, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What metadata say of layers that differ, and of rotary positions. Raises Unreadable."""
    every, ropes = settings["every"], table.rope
    config: dict[str, Any] = {}
    positions = {"": settings["position"]}
    if table.layers is not None:
        types = layer_types(table.layers, settings)
        firsts = {name: every[types.index(name)] for name in dict.fromkeys(types)}
        for name, layer in firsts.items():
            config |= layer_fields(table.layers, name, layer)
        positions = {name: layer["position"] for name, layer in firsts.items()}
        if table.windows is not None:
            config |= _pattern(table, types)
    if ropes is None:
        return config
    for name, position in positions.items():
        of = ropes if isinstance(ropes, RopeOf) else ropes[name]
        if position.get("kind") == "rope":
            config |= rope.written(position, of, _head_dim(settings))
    return config


def _pattern(table: Table, types: Sequence[str]) -> dict[str, Any]:
    """How often a layer sees everything, as the number that says it, where one does: programs that read such files
    know it for the models that they know, and look at no other key."""
    assert table.windows is not None
    for every in range(1, len(types) + 2):
        if list(types) == [WIDE[0] if (i + 1) % every == 0 else WIDE[1] for i in range(len(types))]:
            return {table.windows: every}
    return {}


def _head_dim(settings: Mapping[str, Any]) -> int:
    attention = settings["attention"]
    return int(attention.get("head_dim") or settings["d_model"] // attention["heads"])


def _frequencies(settings: Mapping[str, Any]) -> tuple[float, ...] | None:
    """What wavelengths are multiplied with where positions are scaled as Llama 3.1 does it."""
    position = settings["position"] or {}
    scaling = position.get("scaling") or {}
    if scaling.get("kind") != "llama3":
        return None
    turned = int(_head_dim(settings) * position.get("fraction", 1.0))
    return tuple(rope.stretched(Llama3.model_validate(scaling), position["theta"], turned // 2))
