"""What the records of a source are where the spec does not say it: found in its first record, once, and said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.hashing import digest
from llmspec.core.problems import Problem
from llmspec.data import artifact_cache
from llmspec.data.formats import (
    FORMATS,
    PROMPTS,
    TEXTS,
    Format,
    is_metadata,
    recognised,
    recognised_prompt,
    text_field,
)
from llmspec.data.preferences import recognised_preference
from llmspec.data.prompts import asks_last
from llmspec.data.shaping import Dropped, dialogue
from llmspec.data.views import PROMPT, SourceView
from llmspec.parts.phases import Phase
from llmspec.parts.sources import Document, Fetcher, Source
from llmspec.parts.sources.template import parse
from llmspec.parts.templates.base import Turn

LOOKED_AT = 100
"""Documents among which the first record is looked for."""
ASKS = ("prompt", "question", "query", "instruction", "problem", "input", "source", "q")
ANSWERS = ("chosen", "answer", "response", "completion", "solution", "output", "reply", "target", "a")
"""Fields that are likely to hold a question, and its answer, for what is proposed to a person."""
_REVISION = 4
"""Changes when what is noted of a source does."""


class Found(NamedTuple):
    """The first record of a source, and which of its fields are read; all empty where it holds plain texts."""

    where: str = ""
    fields: tuple[str, ...] = ()
    dialogue: str = ""
    """Name of the format in which it is a dialogue; empty where it is none."""
    spoken: tuple[str, ...] = ()
    """Its fields that the dialogue is made of."""
    text: tuple[str, ...] = ()
    """Its fields that the plain text is made of."""
    whole: bool = False
    """Whether its text is one field of it: then it is no dialogue that was not recognised."""
    preference: str = ""
    """Name of the format in which it compares answers; empty where it does not."""
    compared: tuple[str, ...] = ()
    """Its fields that the comparison is made of."""
    asks: str = ""
    """Name of the format in which it asks what it does not answer; empty where it does not."""
    asked: tuple[str, ...] = ()
    """Its fields that the question is made of."""
    numbers: tuple[str, ...] = ()
    """Its fields that hold numbers."""

    def sentence(self, form: str) -> tuple[str, str]:
        """(value, why) of the decision how the records are read in a form."""
        asked = self.asked if self.asks else self.spoken
        forms = {"plain": self.text, "preference": self.compared, PROMPT: asked}
        read = forms.get(form, self.spoken or self.compared)
        beside = [name for name in self.fields if name not in read]
        why = f"the first record ({self.where}) has {', '.join(self.fields)}"
        if beside:
            kept = "beside it, for rewards" if form == PROMPT and self.asks else "not read"
            why += f"; {kept}: {', '.join(beside)}"
        if form == "preference":
            return f"answers in the {self.preference} format", why
        if form == "plain":
            return f"plain text of {' + '.join(read) or 'nothing'}", why
        if self.preference and not self.dialogue:
            return f"dialogues with the best answer, of the {self.preference} format", why
        if form == PROMPT and self.asks:
            return f"prompts without answers, in the {self.asks} format", why
        return f"dialogues in the {self.dialogue} format", why


def recognise(source: Source, fetch: Fetcher, fingerprint: Any) -> Found:
    """What an unshaped source holds, or nothing where the spec says how its records are read. Raises DataError."""
    if source.shaped:
        return Found()
    key = digest(
        {
            "revision": _REVISION,
            "formats": [FORMATS, PROMPTS, TEXTS],
            "kind": getattr(source, "kind", ""),
            "source": source.revision,
            "fingerprint": fingerprint,
        }
    )
    entry = artifact_cache.find("formats", key)
    if entry is None:

        def write(folder: Path) -> dict[str, Any]:
            first = next((d for d in islice(source.documents(fetch), LOOKED_AT) if d.record is not None), None)
            return (found_in(first.where, first.record or {}) if first else Found())._asdict()

        entry = artifact_cache.make("formats", key, write)
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.about.items()
    }
    return Found(**kept)


def found_in(where: str, record: Mapping[str, Any]) -> Found:
    """What one record is."""
    fields, form, whole = tuple(map(str, record)), recognised(record), text_field(record)
    spoken = tuple(name for name in fields if name in read_by(form)) if form else ()
    if whole is not None:
        text: tuple[str, ...] = (whole,)
    else:
        text = spoken or tuple(
            str(name) for name, value in record.items() if isinstance(value, str) and not is_metadata(str(name), value)
        )
    known = recognised_preference(record)
    compared = tuple(name for name in fields if known is not None and name in known.reads)
    named = (form.name if form else "", spoken, text, len(text) == 1)
    asks = asking(record, form)
    asked = tuple(name for name in fields if asks and name in (compared if known else ("system", *ASKED_IN)))
    numbers = tuple(str(key) for key, value in record.items() if type(value) in (int, float))
    return Found(where, fields, *named, known.name if known else "", compared, asks, asked, numbers)


ASKED_IN = ("prompt", "messages", "conversations", "conversation")
"""Fields that hold what a record asks, alone or with turns before it."""


def asking(record: Mapping[str, Any], form: Format | None) -> str:
    """The format in which a record, a dialogue of `form`, asks what it does not answer; '' where it answers it, or asks
    nothing."""
    if form is None:
        known, prompt = recognised_preference(record), recognised_prompt(record)
        return known.name if known is not None else prompt.name if prompt is not None else ""
    turns = dialogue_of(record)
    return form.name if turns and asks_last(turns) else ""


def dialogue_of(record: Mapping[str, Any]) -> list[Turn]:
    """The turns of a record of a known format; none where it cannot be read."""
    found = dialogue(Source(), Document("", record=dict(record)))
    return [] if isinstance(found, Dropped) else found


def read_by(form: Format) -> set[str]:
    """The fields that a format reads."""
    named = {piece.text for _, template in form.turns for piece in parse(template) if piece.field}
    return {*named, *form.lists, *((form.history,) if form.history else ())}


def views_of(phase: Phase, sources: Mapping[str, Source], found: Mapping[str, Found]) -> list[SourceView]:
    """How a phase reads each source of its mixture."""
    if phase.preferences or phase.thumbs:
        return [SourceView(name, "preference") for name, share in phase.mixture.items() if share.percent > 0]
    form = "pair" if phase.pairs else "apart" if phase.apart else PROMPT if phase.prompted else "dialogue"
    spoken = {
        name
        for name in phase.mixture
        if (phase.dialogues or phase.pairs or phase.apart)
        and name in sources
        and (
            sources[name].has_dialogues
            or found[name].dialogue
            or (phase.prompted and found[name].asks)
            or (phase.dialogues and found[name].preference)
        )
    }
    return [
        SourceView(name, form if name in spoken else phase.reads or "plain")
        for name, share in phase.mixture.items()
        if share.percent > 0
    ]


def unpaired(name: str, phase: Phase, found: Mapping[str, Found], sources: Mapping[str, Source]) -> Iterable[Problem]:
    """Sources of a phase of pairs whose records are of no format with a question and its answer."""
    for source in phase.mixture if phase.pairs or phase.apart else ():
        if source not in found or sources[source].shaped or found[source].dialogue:
            continue
        fields = found[source].text
        first, last = (fields[0], fields[-1]) if len(fields) > 1 else ("question", "answer")
        what = f"the first one ({found[source].where}) has {', '.join(found[source].fields)}"
        yield Problem(
            f"the records of {source} are no pairs of a known format: {what}"
            if found[source].where
            else f"{source} holds plain texts, and {name} reads pairs of a source and its target",
            ("phases", name, "mixture", source),
            f'at data.sources.{source} write how they are to be read, such as `source: "{{{first}}}"` and '
            f'`target: "{{{last}}}"`'
            if found[source].where
            else "read records from .jsonl, .json or .csv files, or take it out of the mixture",
            "it would be unclear what is asked and what is to be said",
        )


def uncompared(name: str, phase: Phase, found: Mapping[str, Found], sources: Mapping[str, Source]) -> Iterable[Problem]:
    """Sources of a phase that compares answers, whose records compare none or are of no known format."""
    for source in phase.mixture if phase.preferences or phase.thumbs else ():
        if source not in found or sources[source].comparison or found[source].preference:
            continue
        what = f"the first one ({found[source].where}) has {', '.join(found[source].fields)}"
        yield Problem(
            f"the records of {source} compare no answers in a known format: {what}"
            if found[source].where
            else f"{source} says nothing of which answers are better, and {name} learns that",
            ("phases", name, "mixture", source),
            f"at data.sources.{source} write how they are to be read, such as {_compared_as(found[source])}"
            if found[source].where
            else "read records with `prompt`, `chosen` and `rejected`, or take it out of the mixture",
            "it would be unclear which answer is better",
        )


def _compared_as(found: Found) -> str:
    """Keys that may say which answers of such records are better."""
    asks = next((field for field in found.text if field in ASKS), found.text[0] if found.text else "prompt")
    rest = [field for field in found.text if field != asks]
    if len(rest) == 1 and found.numbers:
        scores = ", ".join(f"{name}: 1" for name in found.numbers)
        return f'`prompt: "{{{asks}}}"`, `answers: {rest[0]}`, `scores: {{{scores}}}` and `group_by: {asks}`'
    first, last = (rest[0], rest[-1]) if len(rest) > 1 else ("chosen", "rejected")
    return f'`prompt: "{{{asks}}}"`, `chosen: "{{{first}}}"` and `rejected: "{{{last}}}"`'


def unanswered(name: str, phase: Phase, found: Mapping[str, Found]) -> Iterable[Problem]:
    """Sources of a phase that learns answers, whose records have none: they are prompts."""
    for source in phase.mixture if phase.dialogues and not phase.prompted else ():
        first = found.get(source, Found())
        if not first.asks or first.dialogue or first.preference:
            continue
        rest = [field for field in first.text if field not in first.asked]
        answer = next((field for field in rest if field in ANSWERS), rest[-1] if rest else "answer")
        yield Problem(
            f"{name} learns answers, and the records of {source} are prompts without any: the first one "
            f"({first.where}) has {', '.join(first.fields)}",
            ("phases", name, "mixture", source),
            f'at data.sources.{source} write `dialogue: {{user: "{{prompt}}", assistant: "{{{answer}}}"}}`'
            + ("" if rest else " once the records have them")
            + ', or `text: "{prompt}"` to learn the prompts as plain text',
            "there would be nothing to learn to say",
        )


def unrecognised(name: str, phase: Phase, found: Mapping[str, Found]) -> Iterable[Problem]:
    """Sources of a phase of dialogues whose records are neither dialogues nor documents of one text."""
    for source in phase.mixture if phase.dialogues else ():
        first = found.get(source, Found())
        if not first.where or first.dialogue or first.preference or first.whole:
            continue
        if first.asks:
            continue
        asks = next((field for field in first.text if field in ASKS), first.text[0] if first.text else "")
        answers = next((field for field in first.text if field in ANSWERS), first.text[-1] if first.text else "")
        whole = "\\n\\n".join(f"{{{field}}}" for field in first.text)
        hint = (
            f'at data.sources.{source} write how they are to be read, such as `dialogue: {{user: "{{{asks}}}", '
            f'assistant: "{{{answers}}}"}}`, or `text: "{whole}"` to read them as plain text'
        )
        if not first.text:
            hint = 'none of these holds text; write records such as {"question": "...", "answer": "..."}'
        yield Problem(
            f"the records of {source} are dialogues of no known format: the first one ({first.where}) has "
            f"{', '.join(first.fields)}",
            ("phases", name, "mixture", source),
            hint,
            "it would be unclear which turns are whose",
        )
