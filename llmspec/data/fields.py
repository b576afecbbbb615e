"""Whether the records of a source have the fields that its templates need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmspec.core.problems import DataError, one_of
from llmspec.parts.sources import Document, Validation
from llmspec.parts.sources.notes import READ, Notes


class Fields:
    """Looks for the fields that templates need, and for those that validation is chosen by."""

    def __init__(self, names: Iterable[str], validation: Validation | None = None) -> None:
        self._missing, self._validation = set(names), validation
        self._apart = Notes()
        self._first: Document | None = None
        self._record: Document | None = None

    def look(self, document: Document) -> None:
        """The next document."""
        self._first = self._first or document
        if document.record is not None:
            self._missing -= document.record.keys()
            self._record = self._record or document
        how = self._validation
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
            raise _no_field(sorted(self._missing), self._record, self._first)
        for reason, count in self._apart.counts.items():
            notes.add(reason, count=count)
            notes.examples[reason] = self._apart.examples.get(reason, [])


def _no_field(names: Sequence[str], record: Document | None, first: Document) -> DataError:
    """The problem of templates whose fields no record has."""
    what = ", ".join(f"`{name}`" for name in names)
    if record is None or record.record is None:
        return DataError(
            f"{first.where} is plain text, without the fields {what} that the templates need",
            "take out `text:`, `dialogue:` and `messages:`, or read records from .jsonl or .json files",
            "there would be nothing to fill the templates with",
        )
    keys = [str(key) for key in record.record]
    return DataError(
        f"no record has a field {what}; {record.where} has {', '.join(keys)}",
        one_of(names[0], keys),
        "the template could not be filled",
    )
