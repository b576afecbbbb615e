"""How phases read sources: as plain text, as dialogues, or as pairs of a question and its answer."""

from __future__ import annotations

from typing import NamedTuple

from llmspec.data.split import Shaped
from llmspec.parts.templates.base import Pieces

Form = str
"""How a source is read: `pair` is a question and its answer, without a chat template around them."""
FORMS: tuple[Form, ...] = ("plain", "dialogue", "pair")


class SourceView(NamedTuple):
    """A source as a phase reads it."""

    source: str
    form: Form

    @property
    def read_as(self) -> Form:
        """`plain`, or `dialogue` where documents are read as turns."""
        return "plain" if self.form == "plain" else "dialogue"

    def contents(self, item: Shaped) -> list[Pieces]:
        """The texts of a document in this form, where it has it: of a dialogue, each turn's."""
        if self.form == "plain":
            return [item.plain] if item.plain is not None else []
        return [turn.content for turn in item.turns or ()]
