"""Files of texts: one a line, or JSON objects with `text`, one a line."""

from __future__ import annotations

from llmspec.core import strict_json
from llmspec.core.problems import LlmspecError, Mark, Problem

LINES = (".jsonl", ".ndjson")
"""Ends of the names of files that hold JSON lines."""


def read(raw: bytes, name: str) -> list[str]:
    """The texts in a file's bytes; blank lines are none. Raises LlmspecError naming every line that is wrong."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = Mark(name, raw.count(b"\n", 0, error.start) + 1, 1)
        said = f"byte {raw[error.start]:#04x} is not UTF-8 text"
        raise LlmspecError([Problem(said, hint="save the file as UTF-8", mark=mark)]) from None
    found, problems = list[str](), list[Problem]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if not name.endswith(LINES):
            found.append(line.removesuffix("\r"))
            continue
        try:
            record = strict_json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise ValueError('a line is an object such as {"text": "A cat sleeps."}')
            found.append(record["text"])
        except ValueError as error:
            problems.append(Problem(str(error), mark=Mark(name, number, 1)))
    if problems:
        raise LlmspecError(problems)
    return found
