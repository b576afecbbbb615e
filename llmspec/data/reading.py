"""Sources to shaped, split documents: what trains, what validates, what was dropped and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llmspec.core.hashing import digest
from llmspec.core.problems import DataError, one_of
from llmspec.data.formats import FORMATS, TEXTS
from llmspec.data.leaks import Content, HeldOut, Leak, content
from llmspec.data.shaping import Dropped, Pieces, Turn, dialogue, plain_text
from llmspec.data.split import Shaped, split
from llmspec.parts.sources import Document, Fetcher, Source
from llmspec.parts.sources.notes import Notes

FORMAT = 4
"""Changes when this folder reads, splits or writes in another way, so that old token files are not used."""
_LONG = 10_000
"""Characters from which a document can be shortened instead of left out."""

Form = str
"""How a source is read: `plain` or `dialogue`."""


class View(NamedTuple):
    """A source as a phase reads it."""

    source: str
    form: Form

    def contents(self, item: Any) -> list[Pieces]:
        """The texts of a document in this form: of a dialogue, each turn's."""
        return [item] if self.form == "plain" else [turn.content for turn in item]


@dataclass
class Reading:
    """One source's documents."""

    documents: int
    train: list[Shaped]
    validation: list[Shaped]
    content: dict[Form, Content] = field(default_factory=dict)
    """The set of texts, or of dialogues."""
    leaks: dict[Form, list[Leak]] = field(default_factory=dict)
    """Training documents that some source validates with, as text or as dialogue."""
    train_of: dict[Form, list[Shaped]] = field(default_factory=dict)
    """Training documents that are read: those are not among them, unless leaks are allowed."""
    notes: Notes = field(default_factory=Notes)
    """What its files have that no document is made of."""

    def texts(self, side: Iterable[Shaped]) -> list[Pieces]:
        """The plain texts of a side."""
        return [item.plain for item in side if item.plain is not None]

    def dialogues(self, side: Iterable[Shaped]) -> list[list[Turn]]:
        """The dialogues of a side."""
        return [item.turns for item in side if item.turns is not None]


def read_all(sources: Mapping[str, Source], views: Iterable[View], fetch: Fetcher, markers: Sequence[str],
             progress: Callable[[str, int, int], None], leaks: str) -> dict[str, Reading]:
    """Read, shape and split every source, then drop from training what any source validates with.

    With `leaks` "allow", it is found and kept; whether it is refused is for who asks.

    Raises:
        DataError: the problems of all sources at once, each with its path in the spec.
    """
    wanted = {view.source for view in views if view.form == "dialogue"}
    readings: dict[str, Reading] = {}

    def read(name: str, source: Source) -> None:
        progress(f"reading {name}", len(readings), len(sources))
        readings[name] = _read(source, fetch, markers, name in wanted)

    each_source(sources, read)
    held_out = HeldOut({name: reading.validation for name, reading in readings.items()})
    for reading in readings.values():
        clean, reading.leaks = held_out.split(reading.train)
        reading.train_of = dict.fromkeys(clean, reading.train) if leaks == "allow" else clean
    return readings


def each_source(sources: Mapping[str, Source], do: Callable[[str, Source], Any]) -> dict[str, Any]:
    """`do` for every source; the DataErrors of all of them in one, at their paths in the spec."""
    results, problems = {}, []
    for name, source in sources.items():
        try:
            results[name] = do(name, source)
        except DataError as error:
            problems += [problem.at("data", "sources", name) for problem in error.problems]
    if problems:
        raise DataError(problems)
    return results


def fingerprints(sources: Mapping[str, Source], fetch: Fetcher) -> dict[str, Any]:
    """By source: a JSON-able value that changes when its documents do. Raises DataError as `read_all` does."""
    return each_source(sources, lambda name, source: source.fingerprint(fetch))


def content_keys(sources: Mapping[str, Source], prints: Mapping[str, Any], markers: Sequence[str],
                 leaks: str) -> dict[View, str]:
    """Hash of what each view's text depends on, found without reading the text; `prints` are the fingerprints.

    A view depends on the validation text of every source, since what that holds is dropped from training.
    """
    own: dict[View, dict[str, Any]] = {}
    for name, source in sources.items():
        plain = {"format": FORMAT, "kind": getattr(source, "kind", ""), "revision": source.revision,
                 "fingerprint": prints[name], "text": source.text, "messages": source.messages,
                 "validation": str(source.validation), "markers": list(markers),
                 **({} if source.shaped else {"recognised": [FORMATS, TEXTS]})}
        own[View(name, "plain")] = plain
        own[View(name, "dialogue")] = {**plain, "rounds": [list(turn) for turn in source.rounds]}
    held_out = {form: sorted(digest(own[View(name, form)]) for name, source in sources.items() if source.validation)
                for form in ("plain", "dialogue")}
    # Refusing leaks changes no text, so that nothing is made or trained anew where there are none.
    kept = {"leaks": leaks} if leaks == "allow" else {}
    return {view: digest({"own": what, "form": view.form, "held_out": held_out[view.form], **kept})
            for view, what in own.items()}


def thinned(texts: Sequence[str], fraction: float) -> list[str]:
    """About that fraction of the characters, spread evenly: of long texts the first part, of short ones every nth."""
    if fraction >= 1:
        return list(texts)
    out, due = [], 0.0
    for text in texts:
        if len(text) >= _LONG:
            out.append(text[: int(len(text) * fraction)])
            continue
        due += len(text) * fraction
        if due >= len(text) / 2:
            out.append(text)
            due -= len(text)
    return out


def dropped(items: Iterable[Shaped], form: Form) -> Notes:
    """The documents that are not read in that form, by reason."""
    notes = Notes()
    for item in items:
        if (why := item.dropped.get(form)) is not None:
            notes.add(why.reason, item.document.where + (f": {why.detail}" if why.detail else ""))
    return notes


def _read(source: Source, fetch: Fetcher, markers: Sequence[str], dialogues: bool) -> Reading:
    items: list[Shaped] = []
    missing = set(source.fields(dialogues))
    record: Document | None = None
    notes = Notes()
    for document in source.documents(fetch.noting(notes)):
        if document.record is not None:
            missing -= document.record.keys()
            record = record or document
        items.append(_shape(source, document, markers, dialogues))
    if not items:
        raise DataError("the source holds no document", "name other files", "there would be nothing to learn from")
    if missing:
        raise _no_field(sorted(missing), record, items[0].document)
    sides = split(items, source.validation)
    return Reading(len(items), sides.train, sides.validation, content(items), notes=notes)


def _no_field(names: Sequence[str], record: Document | None, first: Document) -> DataError:
    """The problem of templates whose fields no record has."""
    what = ", ".join(f"`{name}`" for name in names)
    if record is None or record.record is None:
        return DataError(
            f"{first.where} is plain text, without the fields {what} that the templates need",
            "take out `text:`, `dialogue:` and `messages:`, or read records from .jsonl or .json files",
            "there would be nothing to fill the templates with")
    keys = [str(key) for key in record.record]
    return DataError(f"no record has a field {what}; {record.where} has {', '.join(keys)}", one_of(names[0], keys),
                     "the template could not be filled")


def _shape(source: Source, document: Document, markers: Sequence[str], dialogues: bool) -> Shaped:
    found: dict[Form, Any] = {"plain": plain_text(source, document, markers)}
    if dialogues:
        found["dialogue"] = dialogue(source, document, markers)
    why = {form: value for form, value in found.items() if isinstance(value, Dropped)}
    plain, turns = (None if form in why else found.get(form) for form in ("plain", "dialogue"))
    text = "".join(plain) if plain else json.dumps(document.record, ensure_ascii=False, default=str)
    return Shaped(document, text, plain, turns, why)
