"""Files to documents, by suffix. Every problem names its file, and its line where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmspec.core.problems import DataError, Mark, Problem
from llmspec.parts.sources.base import Document

MOST_PROBLEMS = 5
"""Problems told of one file; the rest are likely of the same kind."""


def read_files(files: list[tuple[str, Path]]) -> Iterator[Document]:
    """Documents of files given as (name, path), in order; one DataError with the problems of all of them."""
    problems: list[Problem] = []
    for name, path in files:
        try:
            documents = read_file(name, path)
        except DataError as error:
            problems += error.problems
        else:
            if not problems:
                yield from documents
    if problems:
        raise DataError(problems)


def read_file(name: str, path: Path) -> list[Document]:
    """Documents of one file: a text, or the records of a .jsonl or .json."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}", "give it read permission") from None
    text = _decoded(name, raw)
    if not text.strip():
        raise DataError(f"{name} is empty", "fill it, remove it, or narrow the pattern", "it would teach nothing")
    return READERS.get(path.suffix.lower(), _plain)(name, text)


def _decoded(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        begin = raw.rfind(b"\n", 0, error.start) + 1
        around = raw[max(begin, error.start - 40) : error.end + 40].split(b"\n")[0].decode(errors="backslashreplace")
        raise DataError(Problem(
            f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            hint=f"convert it, for example: iconv -f latin1 -t utf-8 {Path(name).name}",
            consequence="its characters would be guessed",
            mark=Mark(name, line, error.start - begin + 1, around),
        )) from None


def _plain(name: str, text: str) -> list[Document]:
    return [Document(name, text)]


def _jsonl(name: str, text: str) -> list[Document]:
    documents, problems = [], []
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            documents.append(Document(name, record=_record(json.loads(line)), item=str(number)))
        except json.JSONDecodeError as error:
            problems.append(_bad_line(name, number, error.colno, line, f"not JSON: {error.msg}"))
        except (ValueError, RecursionError) as error:
            problems.append(_bad_line(name, number, 1, line, str(error)))
        if len(problems) == MOST_PROBLEMS:
            break
    if problems:
        raise DataError(problems)
    return documents


def _bad_line(name: str, number: int, column: int, line: str, message: str) -> Problem:
    shown = line.strip("\r")
    shown = shown if len(shown) <= 100 else shown[:97] + "..."
    return Problem(message, hint='every line is one record, such as {"question": "...", "answer": "..."}',
                   consequence="the record would be lost", mark=Mark(name, number, column, shown))


def _json(name: str, text: str) -> list[Document]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        around = line[max(0, error.colno - 60) : error.colno + 40]
        mark = Mark(name, error.lineno, error.colno, around)
        raise DataError(Problem(f"not JSON: {error.msg}", hint="mend it, or take it out", mark=mark)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read as JSON: {error}", "mend it, or take it out") from None
    if not isinstance(value, dict | list):
        raise DataError(f"{name} holds neither a list nor a map of records", 'write [{"question": "..."}, ...]')
    items = value.items() if isinstance(value, dict) else enumerate(value)
    documents, problems = [], []
    for key, record in items:
        try:
            documents.append(Document(name, record=_record(record), item=str(key)))
        except ValueError as error:
            problems.append(Problem(f"{name}: entry `{key}`: {error}", hint='write {"key": {"field": "text"}, ...}'))
            if len(problems) == MOST_PROBLEMS:
                break
    if problems:
        raise DataError(problems)
    return documents


def _record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a record is a map of named fields, not {_kind(value)}")
    if not value:
        raise ValueError("a record without fields")
    return value


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")


READERS: dict[str, Callable[[str, str], list[Document]]] = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json}
"""Suffix -> reader; every other file is one plain document."""
