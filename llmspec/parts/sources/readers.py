"""Files to documents, by suffix, one by one. Every problem names its file, and its line where there is one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from llmspec.core.problems import DataError, Problem
from llmspec.parts.sources.base import Document, Fetcher, Found
from llmspec.parts.sources.conll import SUFFIXES, read_conll
from llmspec.parts.sources.json_files import read_json, read_jsonl
from llmspec.parts.sources.no_text import NO_TEXT
from llmspec.parts.sources.notes import READ, Problems
from llmspec.parts.sources.opening import PACKED, Text, lines, texts
from llmspec.parts.sources.tables import read_csv, read_table, read_tsv

STRETCH = 1 << 22
"""Characters of a plain text after which it goes on in another stretch."""


def read_files(
    files: list[Found], fetch: Fetcher, encoding: str = "utf-8", columns: tuple[str, ...] = (), lined: bool = False
) -> Iterator[Document]:
    """Documents of files, in order; one DataError with the problems of all of them, the first few in words.

    With `columns` each file is a table of these columns, without a row of names; with `lined` a file of plain text is a
    record a line, whose one field is `text`.
    """
    problems = Problems()
    for found in files:
        before, empty = problems.count, True
        try:
            for document in read_file(found, fetch, problems, encoding, columns, lined):
                empty = False
                if not problems.count:
                    yield document
        except DataError as error:
            problems.add(*error.problems)
        if problems.count > before:
            problems.files += 1
        elif empty:
            fetch.notes.add("empty files", found.name)
    problems.check()


def read_file(
    found: Found,
    fetch: Fetcher,
    problems: Problems,
    encoding: str = "utf-8",
    columns: tuple[str, ...] = (),
    lined: bool = False,
) -> Iterator[Document]:
    """Documents of one file: a text, or its records; none where it is empty.

    What is wrong with single records is added to `problems`. Raises DataError where the file cannot be read on.
    """
    stem, suffix = os.path.splitext(found.path.lower())
    if suffix in PACKED:
        suffix = os.path.splitext(stem)[1]
    if suffix in NO_TEXT:
        raise _binary(found, suffix)
    if suffix in (".html", ".htm", ".xml"):
        fetch.notes.add(f"{READ}files of markup with their tags", found.name)
    text = Text(found.name, texts(found, fetch, encoding), fetch.notes, problems)
    if columns:
        yield from read_table(text, columns, suffix == ".csv")
    else:
        yield from READERS.get(suffix, _lines if lined else _plain)(text)


def _lines(text: Text) -> Iterator[Document]:
    """A record a line that is not blank."""
    text.notes.add(f"{READ}plain text as a prompt a line", text.name)
    for number, line in enumerate(lines(text), 1):
        if line.strip():
            yield Document(text.name, record={"text": line.strip()}, item=str(number))


def _plain(text: Text) -> Iterator[Document]:
    """One document; a long one in stretches."""
    held: list[str] = []
    length, begun = 0, False
    for piece in text.pieces:
        if length >= STRETCH:
            yield Document(text.name, "".join(held), more=True)
            held, length, begun = [], 0, True
        held.append(piece)
        length += len(piece)
    last = "".join(held)
    if begun or last.strip():
        yield Document(text.name, last)


READERS: dict[str, Callable[[Text], Iterator[Document]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".tab": read_tsv,
    **dict.fromkeys(SUFFIXES, read_conll),
}
"""Suffix -> reader; every other file is one plain document."""


def _binary(found: Found, suffix: str) -> DataError:
    what, hint = NO_TEXT[suffix]
    path = Path(found.path)
    names = {"file": path, "text": path.with_suffix(".txt"), "records": path.with_suffix(".jsonl")}
    for name, path in names.items():
        hint = hint.replace(f"{{{name}}}", shlex.quote(str(path)))
    return DataError(
        Problem(
            f"{found.name} is {what}, and only text is read",
            hint=hint,
            consequence="its bytes would be learned as text",
        )
    )
