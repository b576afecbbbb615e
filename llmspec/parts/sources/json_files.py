"""JSON lines, and JSON files that hold a list or a map of records: read one record at a time."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from llmspec.core.problems import DataError, Mark, Problem
from llmspec.parts.sources.base import Document
from llmspec.parts.sources.opening import LONGEST, Text, lines, too_long

_SPACE = re.compile(r"[ \t\n\r]*")
_NEAR = 64
"""An error this near to the end of what was read, or in a text that does not end, may be the end's fault."""
_HINT = 'write [{"question": "..."}, ...]'


def read_json(text: Text) -> Iterator[Document]:
    """The entries of the list or map, each a record."""
    entries = _Entries(text)
    for key, line, value, written in entries.run():
        try:
            document = Document(text.name, record=record(value, written), item=str(key))
        except ValueError as error:
            text.problems.add(
                Problem(
                    f"entry `{str(key)[:60]}`: {error}",
                    mark=Mark(text.name, line, 1),
                    hint=entries.advice or _advice(text.name, str(key), value),
                )
            )
        else:
            yield document


def read_map(text: Text) -> Iterator[tuple[str, Any]]:
    """(key, value) of every entry of a map. Raises DataError for a list, whose entries have no keys."""
    for key, _, value, _ in _Entries(text).run():
        if not isinstance(key, str):
            raise DataError(
                f"{text.name} holds a list, whose entries have no keys to join by",
                'write a map, {"key": ..., ...}, in each of the files',
                "nobody could tell which entries belong together",
            )
        yield key, value


def read_jsonl(text: Text) -> Iterator[Document]:
    """Every line a record; empty lines are passed over."""
    for number, line in enumerate(lines(text), 1):
        if not line.strip():
            continue
        try:
            document = Document(text.name, record=record(json.loads(line), line), item=str(number))
        except json.JSONDecodeError as error:
            text.problems.add(_bad_line(text.name, number, error.colno, line, f"not JSON: {error.msg}"))
        except (ValueError, RecursionError) as error:
            text.problems.add(_bad_line(text.name, number, 1, line, str(error)))
        else:
            yield document


def _bad_line(name: str, number: int, column: int, line: str, message: str) -> Problem:
    excerpt = line if len(line) <= 100 else line[:97] + "..."
    hint = 'every line is one record, such as {"question": "...", "answer": "..."}'
    stripped = line.strip()
    if stripped.endswith("},"):
        hint = f"a record has no comma behind it: sed -i 's/,[[:space:]]*$//' {shlex.quote(name)}"
    elif stripped.endswith((",}", ", }")):
        hint = "JSON has no comma before the closing brace"
    elif stripped.startswith("{'"):
        hint = "JSON has double quotes; from Python write json.dumps(record), not str(record)"
    if number == 1 and (stripped.startswith("[") or stripped == "{"):
        hint = "in .jsonl every line is one record; what goes over several lines belongs into a .json file: rename it"
    return Problem(message, hint=hint, consequence="the record would be lost", mark=Mark(name, number, column, excerpt))


def record(value: Any, written: str) -> dict[str, Any]:
    """A record as JSON holds it; `written` is its text. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"a record is a map of named fields, not {_kind(value)}")
    if not value:
        raise ValueError("a record without fields")
    if "\\u0000" in written and (name := null_in(value)) is not None:
        raise ValueError(f"a NUL character in the field `{name[:60]}`")
    return value


def null_in(value: dict[str, Any]) -> str | None:
    """The field of a record that holds a NUL character, which no text does; None where there is none."""
    return next((name for name, found in value.items() if _holds_null(name) or _holds_null(found)), None)


def _holds_null(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(map(_holds_null, (*value, *value.values())))
    return isinstance(value, list | tuple) and any(map(_holds_null, value))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _advice(name: str, key: str, value: Any) -> str:
    """What to do about an entry that is no record: perhaps it holds them."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        command = shlex.join(["jq", f".[{json.dumps(key)}]", name])
        return f"if it holds the records, take them out into a file of their own: {command} > records.json"
    return 'write {"key": {"field": "text"}, ...} or [{"field": "text"}, ...]'


class _Entries:
    """Walks over the text, of which only the entry that is being read is held."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.held, self.at = "", 0
        self.begin = 0
        """Where the value that was read last begins in what is held."""
        self.ended = False
        self.line, self.before, self.counted = 1, 0, 0
        """Line of the character at `counted`, and how many characters of that line came before it."""
        self.decoder = json.JSONDecoder()
        self.advice = ""

    def run(self) -> Iterator[tuple[str | int, int, Any, str]]:
        """(key or index, line, value, the value as it is written) of every entry. Raises DataError."""
        opening = self.peek()
        if not opening:
            return
        if opening not in "[{":
            self.value()  # what is no JSON at all is told as that
            raise DataError(f"{self.text.name} holds neither a list nor a map of records", _HINT)
        if opening == "{" and self.is_json_lines():
            self.advice = "each line is a record of its own: give the file a name that ends with .jsonl"
        closing = "]" if opening == "[" else "}"
        self.at += 1
        index = 0
        while (next_ := self.peek()) != closing:
            if index:
                self.expect(",", next_, closing)
            key: str | int = index
            if opening == "{":
                key = self.key()
            self.peek()
            line = self.place()[0]
            value = self.value()
            yield key, line, value, self.held[self.begin : self.at]
            index += 1
        self.at += 1
        if self.peek():
            raise self.wrong("more after the end of the " + ("list" if opening == "[" else "map"))

    def is_json_lines(self) -> bool:
        """Whether the first line is a whole record, and another follows."""
        while "\n" not in self.held and self.more():
            pass
        first, _, rest = self.held.partition("\n")
        try:
            return isinstance(json.loads(first), dict) and rest.lstrip().startswith("{")
        except (ValueError, RecursionError):
            return False

    def key(self) -> str:
        if self.peek() != '"':
            raise self.wrong("Expecting property name enclosed in double quotes")
        key = self.value()
        self.expect(":", self.peek(), "")
        return str(key)

    def expect(self, what: str, found: str, closing: str) -> None:
        if found != what:
            either = f" or `{closing}`" if closing else ""
            raise self.wrong(f"expecting `{what}`{either}" if found else "it ends too early")
        self.at += 1
        if what == "," and self.peek() == closing:
            raise self.wrong(f"a comma before `{closing}`")

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            space = _SPACE.match(self.held, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The value that begins here; reads on for as long as it may not be whole."""
        while True:
            begin = self.at
            try:
                value, end = self.decoder.raw_decode(self.held, self.at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.held) - _NEAR or error.msg.startswith("Unterminated")
                beyond = error.pos - self.at
                if not (cut and self.more(double=True)):
                    self.at += beyond
                    raise self.wrong(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self.text.name} cannot be read as JSON: {error}", "fix it, or take it out") from None
            else:
                # A number may go on in what is not read yet.
                if end < len(self.held) or not self.more():
                    self.begin, self.at = self.at, self.at + end - begin
                    return value

    def more(self, double: bool = False) -> bool:
        """Read on; with `double` as much as is held, so that a long value is not tried too often. False at the end."""
        if self.ended:
            return False
        self.place()
        self.held, self.at, self.counted = self.held[self.at :], 0, 0
        wanted, got = max(1, len(self.held)) if double else 1, []
        while wanted > 0 and not self.ended:
            piece = next(self.text.pieces, None)
            self.ended = piece is None
            got.append(piece or "")
            wanted -= len(piece or "")
        self.held += "".join(got)
        if len(self.held) > 2 * LONGEST:
            raise too_long(self.text.name, self.line)
        return any(got)

    def place(self) -> tuple[int, int]:
        """Line and column of the next character, from 1."""
        passed = self.held[self.counted : self.at]
        ends = passed.count("\n")
        self.line += ends
        self.before = len(passed) - passed.rfind("\n") - 1 if ends else self.before + len(passed)
        self.counted = self.at
        return self.line, self.before + 1

    def wrong(self, message: str) -> DataError:
        line, column = self.place()
        begin = self.held.rfind("\n", 0, self.at) + 1
        around = self.held[max(begin, self.at - 60) : self.at + 40].split("\n")[0]
        return DataError(
            Problem(
                f"not JSON: {message}",
                hint=self.advice or "fix it, or take it out",
                mark=Mark(self.text.name, line, column, around),
            )
        )
