"""Whether the records of a source have the fields that its templates need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmspec.core.problems import DataError, Path, Problem, one_of
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.notes import READ, Notes
from llmspec.parts.sources.template import parse

TEXTS = ("documents", "records")
"""Keys of a source that hold what is read, and name no field of it."""
BARE = ("messages", "answers", "scores", "group_by", "cut_at")
"""Keys that name fields without braces."""


class Fields:
    """Looks for the fields that a source's templates need, and for those that validation is chosen by."""

    def __init__(self, source: Source, dialogues: bool) -> None:
        self._source, self._missing = source, set(source.fields(dialogues))
        self._apart = Notes()
        self._first: Document | None = None
        self._record: Document | None = None

    def look(self, document: Document) -> None:
        """The next document."""
        self._first = self._first or document
        if document.record is not None:
            self._missing -= document.record.keys()
            self._record = self._record or document
        how = self._source.validation
        if how is not None and how.by and not document.more and how.group(document.record) is None:
            self._apart.add(f"{READ}documents without {how.by}, on the side that their text chooses", document.where)

    def check(self, notes: Notes) -> None:
        """Raises DataError where there was no document, or none with one of the fields; `notes`: of what was read, to
        which is added what validation could not be chosen by."""
        if self._first is None:
            raise DataError(
                "; ".join(["the source holds no document", *notes.said()]),
                "name other files",
                "there would be nothing to train on",
            )
        if self._missing:
            raise DataError(_no_field(self._source, sorted(self._missing), self._record, self._first))
        for reason, count in self._apart.counts.items():
            notes.add(reason, count=count)
            notes.examples[reason] = self._apart.examples.get(reason, [])


def _no_field(source: Source, names: Sequence[str], record: Document | None, first: Document) -> Iterator[Problem]:
    """The problems of keys whose fields no record has, one for each key; their paths begin below the source."""
    by_key = dict[Path, list[str]]()
    for name in names:
        by_key.setdefault(named_at(source, name), []).append(name)
    if record is None or record.record is None:
        yield Problem(
            f"{first.where} is plain text, without the fields {_listed(names)} that the templates need",
            next(iter(by_key)) if len(by_key) == 1 else (),
            "take out `text:`, `dialogue:` and `messages:`, or read records from .jsonl or .json files",
            "there would be nothing to fill the templates with",
        )
        return
    keys = [str(key) for key in record.record]
    for path, missing in by_key.items():
        yield Problem(
            f"no record has a field {_listed(missing)}; {record.where} has {', '.join(keys)}",
            path,
            one_of(missing[0], keys),
            "the template could not be filled",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def named_at(source: Source, field: str) -> Path:
    """Where a source's keys name a field of its records, below the source; () where they do not, such as in a template
    of the spec's."""
    given = source.model_dump(mode="json", by_alias=True, include=source.model_fields_set - {*TEXTS, "kind"})
    texts = [*_texts(given, ())]
    return next((path for path, text in texts if field in _fields(text)), None) or next(
        (path for path, text in texts if text == field and path[0] in BARE), ()
    )


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text below `value`, keys that are no key of the spec's own included, with its place."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if path:
                yield (*path, key), key
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _texts(inner, (*path, i))
    elif isinstance(value, str):
        yield path, value


def unfilled(template: str, record: Mapping[str, Any]) -> str:
    """Why a template makes nothing of a record: a field that it lacks, or those that say nothing."""
    lacking = sorted(_fields(template) - record.keys())
    return f"it has no {_listed(lacking)}" if lacking else f"`{template}` is empty"


def _fields(template: str) -> set[str]:
    """The fields in a text's braces; none of a text that is no template."""
    try:
        return {piece.text for piece in parse(template) if piece.field}
    except ValueError:
        return set()
