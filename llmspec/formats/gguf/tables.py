"""The mapping tables of GGUF architectures: one YAML file each in architectures/, of the same form as those of
transformers' families (formats/hf/family.py), used both ways.

A field is a key of metadata without the architecture's name before it. Fields that begin with `@` stand in no metadata:
`@` and a tensor's name says whether the file has that tensor, `@vocab` how many ids its tokenizer has, `@layers` of
which type each layer is, and others follow from fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from llmspec.formats.hf.family import SHARED, Family, Shared, merged, read_table

FOLDER = Path(__file__).parent / "architectures"
FACT = "@"
"""What the name of a field begins with that stands in no metadata."""
VOCAB = "@vocab"
LM = "lm"
"""The one ending of the networks here."""


class Table(Family):
    """One mapping table. `model_type` is `general.architecture`; there is one architecture in it, `lm`."""

    transformers: str
    """The family of transformers that has the same networks (formats/hf/families/)."""
    when: dict[str, Any] = Field(default_factory=dict)
    """Facts under which this table holds, where several have the same `general.architecture`."""
    equal: dict[str, str] = Field(default_factory=dict)
    """Fields that, where they are there, have to have the value of another."""
    needed: tuple[str, ...] = Field((), strict=False)
    """Tensors without which llama.cpp reads no file of the architecture: a model that lacks one is not written."""
    square: bool = False
    """Whether llama.cpp asks for heads that are together as wide as the model."""
    windows: str | None = None
    """Field that says how often a layer sees everything: a number, or a truth for each layer."""

    @property
    def facts(self) -> tuple[str, ...]:
        """The fields of this table that say whether the file has a tensor."""
        rules = {**self.fields, **self.architectures[LM].fields}
        asked = [name for name, rule in rules.items() if rule.required]
        return tuple(name for name in (*asked, *self.when) if name.startswith(FACT) and name != VOCAB)


@cache
def shared() -> Shared:
    """What all architectures have in common."""
    return Shared.model_validate(read_table(FOLDER / f"{SHARED}.yaml"))


@cache
def _table(name: str) -> Table:
    return Table.model_validate(merged(FOLDER, name))


@cache
def tables(mentioned: str = "") -> dict[str, Table]:
    """Every table by the name of its file; those that ask for facts come first. With a word that is `mentioned`, those
    whose text has it alone, since reading all takes longer than the rest of opening a file."""
    paths = [p for p in FOLDER.glob("*.yaml") if p.stem != SHARED and mentioned in p.read_text("utf-8")]
    found = {name: _table(name) for name in sorted(p.stem for p in paths)}
    return dict(sorted(found.items(), key=lambda pair: (not pair[1].when, pair[0])))


def table_of(architecture: str, facts: Mapping[str, Any]) -> Table | None:
    """The table of an architecture, by what is known of the file; None where there is none."""
    for table in tables(architecture).values():
        known = architecture in (table.model_type, *table.also)
        if known and all(facts.get(name, False) == wanted for name, wanted in table.when.items()):
            return table
    return None
