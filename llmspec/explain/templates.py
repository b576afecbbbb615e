"""Records as a task's template makes dialogues of them, with the examples before them: one of each source, and where
each turn is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData


@dataclass(frozen=True)
class FilledTurn:
    """A turn of a dialogue."""

    role: str
    text: str
    where: str
    """The record that it is made of."""


@dataclass(frozen=True)
class FilledTemplate:
    """The first training dialogue of a source that has a template, or examples before its dialogues."""

    source: str
    template: str
    """Its name; '' where the source has turns of its own."""
    shots: int
    """Examples before the dialogue."""
    turns: tuple[FilledTurn, ...]


def filled_templates(prepared: PreparedData) -> tuple[FilledTemplate, ...]:
    """One of each source that phases read as dialogues."""
    found = dict[str, FilledTemplate]()
    for phase in prepared.phases:
        for about in prepared.asked(phase)[1]:
            if (filled := about.get("filled")) is not None:
                turns = tuple(FilledTurn(*turn) for turn in filled["turns"])
                name = about["source"]
                found[name] = FilledTemplate(name, filled["template"], filled["shots"], turns)
    return tuple(found.values())
