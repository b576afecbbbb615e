"""Files of prompts: a line of text each, or JSON objects with `prompt` or `messages`, one a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from llmspec.core import strict_json
from llmspec.core.problems import LlmspecError, Mark, Problem, one_of

LINES = (".jsonl", ".ndjson")
"""Ends of the names of files that hold JSON lines."""
KEYS = ("prompt", "messages", "tokens")
MEANT = {
    "prompt": "question text input instruction query user",
    "messages": "conversations conversation dialogue turns",
    "tokens": "words",
}
"""What a record calls its prompt elsewhere."""


class FilePrompt(NamedTuple):
    """A prompt of a file."""

    line: int
    """Its line, from 1 on."""
    text: str | None
    """What is to be answered or continued; None where turns are."""
    turns: tuple[tuple[str, str], ...]
    """A dialogue's turns: (role, text)."""
    mark: Mark
    words: tuple[str, ...] = ()
    """The words that it is, where the record has `tokens`: a text without a doubt where its words end."""
    record: Mapping[str, Any] = MappingProxyType({})
    """The whole record of a file of JSON lines, such as a right answer beside the prompt."""

    @property
    def asked(self) -> str:
        """The text, or that of the last turn."""
        return self.turns[-1][1] if self.text is None else self.text


def read(raw: bytes, name: str) -> tuple[list[FilePrompt], set[str]]:
    """The prompts in a file's bytes, and keys of its records that are not read; blank lines are none.

    Lines are JSON where the name ends like that of JSON lines, and on standard input (`-`) where the first of them
    begins with `{`. Raises LlmspecError naming every line that is wrong.
    """
    if name.endswith(".json"):
        raise LlmspecError(
            f"`{name}` is named like one JSON document, and prompts are one JSON object a line",
            f"write each on a line of its own, and name the file {name}l",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark, said = (
            Mark(name, raw.count(b"\n", 0, error.start) + 1, 1),
            f"byte {raw[error.start]:#04x} is not UTF-8 text",
        )
        raise LlmspecError([Problem(said, hint="save the file as UTF-8", mark=mark)]) from None
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    as_json = name.endswith(LINES) or (name == "-" and bool(lines) and lines[0][1].lstrip().startswith("{"))
    prompts, unread, problems = list[FilePrompt](), set[str](), list[Problem]()
    for number, line in lines:
        mark = Mark("standard input" if name == "-" else name, number, 1, line)
        if not as_json:
            prompts.append(FilePrompt(number, line, (), mark))
            continue
        try:
            record = strict_json.loads(line)
        except ValueError as error:
            said = str(error).replace("in line 1, column", "in column")
            problems.append(Problem(said, hint='a line is {"prompt": "…"} or {"messages": […]}', mark=mark))
            continue
        if found := list(_wrong(record)):
            problems += [Problem(p.message, hint=p.hint, mark=mark) for p in found]
            continue
        turns = tuple((m["role"], content_of(m["content"])) for m in record.get("messages", ()))
        words = tuple(record.get("tokens", ()))
        asked = " ".join(words) if words else record.get("prompt")
        prompts.append(FilePrompt(number, asked, turns, mark, words, record))
        unread |= {*record} - {*KEYS}
    if problems:
        raise LlmspecError(problems)
    if not prompts:
        raise LlmspecError(
            f"{'standard input' if name == '-' else f'`{name}`'} holds no prompt", "write a prompt a line"
        )
    return prompts, unread


def content_of(content: Any) -> str:
    """The text of a message: a string, or OpenAI's list of parts, put together."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _wrong(record: Any) -> Iterator[Problem]:
    """What is wrong with a record."""
    if not isinstance(record, dict):
        yield Problem("a line holds one JSON object", hint='{"prompt": "What is a comet?"}')
        return
    given = [key for key in KEYS if key in record]
    if len(given) > 1:
        named = " or ".join(f"`{key}`" for key in given)
        yield Problem(f"a record has {named}, not {'both' if len(given) == 2 else 'all'}", hint="leave one out")
    elif not given:
        near = next((f"rename `{k}` to `{m}`" for m, words in MEANT.items() for k in record if k in words.split()), "")
        yield Problem(
            "neither `prompt` nor `messages` is in this record", hint=near or one_of(next(iter(record), ""), KEYS)
        )
    elif given == ["prompt"]:
        if not isinstance(record["prompt"], str):
            yield Problem(f"`prompt` is a text, not {_kind(record['prompt'])}")
    elif given == ["tokens"]:
        words = record["tokens"]
        if not isinstance(words, list) or not words or not all(isinstance(w, str) and w.strip() for w in words):
            yield Problem("`tokens` is a list of words", hint='{"tokens": ["EU", "rejects", "German", "call"]}')
    else:
        yield from _wrong_messages(record["messages"])


def _wrong_messages(messages: Any) -> Iterator[Problem]:
    if not isinstance(messages, list) or not messages:
        yield Problem("`messages` is a list of messages", hint='[{"role": "user", "content": "What is a comet?"}]')
        return
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or {*message} != {"role", "content"} or not isinstance(message["role"], str):
            yield Problem(f"message {number} has other keys than `role` and `content`, or a role that is no text")
        elif not _is_text(message["content"]):
            yield Problem(
                f"the content of message {number} is not text", hint="a text, or a list of parts of type text"
            )
    last = messages[-1]
    if isinstance(last, dict) and last.get("role") == "assistant":
        yield Problem("the last message is the assistant's: nothing is left to answer", hint="end with the user's")


def _is_text(content: Any) -> bool:
    return isinstance(content, str) or (
        isinstance(content, list)
        and all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in content)
    )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
