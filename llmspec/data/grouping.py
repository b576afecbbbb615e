"""Records with one answer each, read as one where they follow one another and answer the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from llmspec.core.hashing import digest
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.notes import READ, Notes

APART = f"{READ}records apart from those before with the same {{field}}, since others stand between: sort the files"
"""What is said of a prompt that comes again."""


def grouped(source: Source, documents: Iterable[Document], notes: Notes) -> Iterator[Document]:
    """The documents as they are, or each run of records whose `group_by` is alike as one: of the first record, with
    a list of what every one of them has in the fields of `answers` and `scores`.

    No more than the records of one prompt are held. Records without the field are one each, and plain texts stay what
    they are; a prompt that comes again later is noted, since its answers are not compared with the earlier ones.
    """
    field = source.group_by
    if field is None or source.answers is None or source.scores is None:
        yield from documents
        return
    listed = (source.answers, *([source.scores] if isinstance(source.scores, str) else source.scores))
    seen = set[str]()
    for number, run in groupby(enumerate(documents), key=lambda at: _key(field, *at)):
        found = [document for _, document in run]
        if number in seen:
            notes.add(APART.format(field=f"`{field}`"), found[0].where)
        if not number.startswith(_ALONE):
            seen.add(number)
        records = [document.record for document in found if document.record is not None]
        yield found[0]._replace(record=_one(records, listed)) if records else found[0]


_ALONE = "#"
"""Begins the key of a document that is grouped with no other."""


def _key(field: str, number: int, document: Document) -> str:
    value = (document.record or {}).get(field)
    return f"{_ALONE}{number}" if value is None else digest(value if isinstance(value, str) else repr(value))


def _one(records: list[dict[str, Any]], listed: Iterable[str]) -> dict[str, Any]:
    """The first record, with lists; a field that one of them lacks has None there."""
    lists = {name: [record.get(name) for record in records] for name in listed if any(name in r for r in records)}
    return {**records[0], **lists}
