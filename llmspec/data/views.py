"""How phases read sources: as plain text, as dialogues, as pairs of a question and its answer, or as text with
something beside it; and what that hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmspec.core.hashing import digest
from llmspec.data.formats import FORMATS, TEXTS
from llmspec.data.preferences import REVISION
from llmspec.data.split import Shaped
from llmspec.parts.sources import Source
from llmspec.parts.sources.base import READ_BESIDE
from llmspec.parts.templates.base import Pieces

FORMAT = 8
"""Changes when this folder reads, splits or writes in another way, so that old token files are not used."""
PROMPT = "prompt"
"""A dialogue with the fields of its record beside it, for phases that answer it."""
EXCHANGED = 2
"""The same of answers that are made of other records alone."""
Form = str
"""How a source is read: `pair` is a question and its answer, without a chat template around them, `apart` two texts
that are read each by itself, and `preference` answers to one prompt of which some are better; plain text that has
something beside it is named by the key of the source that says what, such as `label`."""
SPOKEN: tuple[Form, ...] = ("dialogue", PROMPT)
"""Those that a chat template puts together, one dialogue each."""
FORMS: tuple[Form, ...] = ("plain", "dialogue", "pair", "apart", "preference", PROMPT)
PAIRED: tuple[Form, ...] = ("pair", "apart")
"""Those of a source and its target, one each."""


class SourceView(NamedTuple):
    """A source as a phase reads it."""

    source: str
    form: Form

    @property
    def read_as(self) -> Form:
        """`plain`, `preference`, or `dialogue` where documents are read as turns."""
        if self.form == "preference":
            return self.form
        return "dialogue" if self.form in (*SPOKEN, *PAIRED) else "plain"

    def contents(self, item: Shaped) -> list[Pieces]:
        """The texts of a document in this form, where it has it: of a dialogue, each turn's."""
        if self.read_as == "plain":
            return [item.plain] if item.plain is not None else []
        if self.read_as == "preference":
            found = item.compared
            return [] if found is None else [*(turn.content for turn in found.prompt), *found.answers]
        return [turn.content for turn in item.turns or ()]


def content_keys(
    sources: Mapping[str, Source], prints: Mapping[str, Any], markers: Sequence[str], contamination: str
) -> dict[SourceView, str]:
    """Hash of what each view's text depends on, found without reading the text; `prints` are the fingerprints.

    A view depends on the validation text of every source, since what that holds is dropped from training.
    """
    own: dict[SourceView, dict[str, Any]] = {}
    for name, source in sources.items():
        plain = {
            "format": FORMAT,
            "kind": getattr(source, "kind", ""),
            "revision": source.revision,
            "fingerprint": prints[name],
            "text": source.text,
            "messages": source.messages,
            "validation": str(source.validation),
            "markers": list(markers),
            **({} if source.shaped else {"recognised": [FORMATS, TEXTS]}),
            **({"replace": [list(pair) for pair in source.replace.items()]} if source.replace else {}),
            **({"pair": [source.source, source.target]} if source.source is not None else {}),
            **({"prompt": source.prompt} if source.asks_alone else {}),
            **({"words": source.words} if source.words is not None else {}),
            **({"weight": source.weight} if source.weight is not None else {}),
            **({"compared": [REVISION, told]} if (told := source.comparison) else {}),
        }
        own[SourceView(name, "plain")] = plain
        for form in FORMS[1:]:
            shown: dict[str, Any] = {"shots": source.shots} if source.shots and form in SPOKEN else {}
            shown |= {"compared": [REVISION, source.comparison]} if form == "preference" else {}
            shown |= {"derived": EXCHANGED} if form == "preference" and source.rejected_from is not None else {}
            own[SourceView(name, form)] = {**plain, "rounds": [list(turn) for turn in source.rounds], **shown}
        for key in READ_BESIDE:
            if (beside := getattr(source, key)) is not None:
                names = {"tag_names": source.tag_names} if key == "tags" and source.tag_names else {}
                own[SourceView(name, key)] = {**plain, key: beside, **names}
    held_out = {
        form: sorted(digest(own[SourceView(name, form)]) for name, source in sources.items() if source.validation)
        for form in ("plain", "dialogue", "preference")
    }
    # Refusing contamination changes no text, so that nothing is made or retrained where there are none.
    kept = {"contamination": contamination} if contamination == "allow" else {}
    return {
        view: digest({"own": what, "form": view.form, "held_out": held_out[view.read_as], **kept})
        for view, what in own.items()
    }
