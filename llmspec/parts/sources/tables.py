"""CSV and TSV: rows to records. The first row names the columns, or the spec does."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from llmspec.core.problems import DataError, Mark, Problem, nearest
from llmspec.parts.sources.base import Document
from llmspec.parts.sources.notes import READ
from llmspec.parts.sources.opening import LONGEST, Text, lines, too_long

_SAYS = re.compile(r"sep=([,;\t|])\n", re.IGNORECASE)
"""A line above the header that names the separator."""
_LONGEST_NAME = 100
"""Characters of a column's name; what is longer is a text, in a file without a header."""


def read_csv(text: Text) -> Iterator[Document]:
    """Rows of comma-separated values (RFC 4180); `;` or tabs, where the header holds no comma but those."""
    yield from _rows(text, ",")


def read_tsv(text: Text) -> Iterator[Document]:
    """Rows of tab-separated values, quoted as in CSV where they are."""
    yield from _rows(text, "\t")


def read_table(text: Text, columns: tuple[str, ...], commas: bool) -> Iterator[Document]:
    """Rows below no row of names: with `commas` as in CSV, else of values with tabs between them, never quoted."""
    if commas:
        yield from _rows(text, ",", columns)
        return
    for number, line in enumerate(lines(text), 1):
        if line:
            row = line.split("\t")
            if len(row) == len(columns):
                yield Document(text.name, record=dict(zip(columns, row, strict=True)), item=str(number))
            else:
                text.problems.add(_uneven(text.name, number, row, columns, "\t"))


def _rows(text: Text, delimiter: str, columns: tuple[str, ...] = ()) -> Iterator[Document]:
    table = _Table(text, delimiter, columns)
    for start, row in table.rows():
        if len(row) != len(table.columns):
            text.problems.add(_uneven(text.name, start, row, table.columns, table.separator))
        else:
            named = {name: value for name, value in zip(table.columns, row, strict=True) if name}
            yield Document(text.name, record=named, item=str(start))


def _uneven(name: str, line: int, row: list[str], columns: Sequence[str], separator: str) -> Problem:
    many = f"{len(row)} field{'s' * (len(row) != 1)}"
    return Problem(
        f"this row has {many}, and the header {len(columns)}",
        hint="put texts that hold the separator or line ends into double quotes",
        consequence="its texts would stand under the wrong names",
        mark=Mark(name, line, 1, _excerpt(separator.join(row))),
    )


class _Table:
    """A table being read: its columns, its separator, and its rows with the lines that they begin on."""

    def __init__(self, text: Text, separator: str, columns: tuple[str, ...] = ()) -> None:
        """`columns`: their names, where no row of the table says them."""
        self.text, self.separator = text, separator
        self.columns = list(columns)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows below the header. Raises DataError for a header that is none, and for quotes that do not end."""
        source = (line + "\n" for line in lines(self.text))
        first = next((line for line in source if line.strip()), "")
        skipped = 0
        if said := _SAYS.fullmatch(first):  # as Excel writes it
            self.separator, first, skipped = said[1], next(source, ""), 1
        if not first:
            return
        self.separator = self._separator(first)
        reader = csv.reader(_chain(first, source), delimiter=self.separator, strict=True)
        start = 1 + skipped
        while True:
            try:
                row = _next(reader)
            except csv.Error as error:
                raise self._broken(start, str(error)) from None
            if row is None:
                return
            if row and not self.columns:
                self.columns = self._header(row)
            elif row:
                yield start, row
            start = reader.line_num + 1 + skipped

    def _separator(self, first: str) -> str:
        """The separator that the suffix says, unless the header has none of it but semicolons or tabs."""
        for other, name in ((";", "semicolons"), ("\t", "tabs")):
            if self.separator == "," and "," not in first and other in first:
                self.text.notes.add(f"{READ}tables with {name} between the fields", self.text.name)
                return other
        return self.separator

    def _header(self, row: list[str]) -> list[str]:
        columns = [name.strip() for name in row]
        twice = [name for name, count in Counter(columns).items() if count > 1 and name]
        values = [name for name in columns if len(name) > _LONGEST_NAME or _is_number(name)]
        message = ""
        if twice:
            message = f"the header names `{_excerpt(twice[0])}` twice"
        elif values:
            message = f"the first row names the columns, and `{_excerpt(values[0])}` is not a name"
        elif not any(columns):
            message = "the first row names the columns, and it is empty"
        if message:
            example = "question<tab>answer" if self.separator == "\t" else f"question{self.separator}answer"
            raise DataError(
                Problem(
                    message,
                    hint=f"put a first row above it, such as {example}",
                    consequence="the first record would be taken for names",
                    mark=Mark(self.text.name, 1, 1, _excerpt(self.separator.join(row))),
                )
            )
        if unnamed := columns.count(""):
            self.text.notes.add("columns without a name", self.text.name, unnamed)
        return columns

    def _broken(self, start: int, said: str) -> DataError:
        if "field larger" in said:
            return too_long(self.text.name, start)
        what = f"this row cannot be read: {said}"
        if "end of data" in said:
            what = "a quoted field does not end"
        elif "expected after" in said:
            what = "a field that begins with a double quote goes on after the quote that ends it"
        return DataError(
            Problem(
                what,
                hint='write a double quote inside a quoted field twice, as in "say ""hi"""',
                consequence="all that follows would be one field",
                mark=Mark(self.text.name, start, 1),
            )
        )


def _next(reader: Iterator[list[str]]) -> list[str] | None:
    """The next row. The csv module's limit holds for the whole process, and is put back at once."""
    before = csv.field_size_limit(LONGEST)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return nearest(name.lower(), ("nan", "inf", "infinity")) is None


def _excerpt(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= 100 else text[:97] + "..."
