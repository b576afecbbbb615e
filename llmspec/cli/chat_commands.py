"""Commands in a conversation: a table of names, what they take, what they do, and the function that does it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.problems import LlmspecError, Problem, one_of
from llmspec.core.units import count

LINES = ".jsonl"
BETWEEN = re.compile(r"\s*=\s*|\s+")
"""Between a setting and its value."""


class End(Exception):
    """The conversation is to end."""


class Command(NamedTuple):
    """One command."""

    takes: str
    """What stands behind its name."""
    does: str
    """In words."""
    act: Callable[[Any, str], str]
    """(conversation, what stands behind the name) -> what is said of it."""


def carry_out(talk: Any, text: str) -> str:
    """What is said of a command that was given. Raises LlmspecError for what is none, End for the last."""
    name, _, rest = text[1:].partition(" ")
    if (command := COMMANDS.get(name)) is None:
        raise LlmspecError(
            f"there is no command `/{name}`",
            hint=f"{one_of(name, COMMANDS)}; `//{name}` is a question that begins with a slash",
        )
    if rest.strip() and not command.takes:
        raise LlmspecError(f"`/{name}` takes nothing", hint=f"write /{name} alone")
    return command.act(talk, rest.strip())


def _help(talk: Any, rest: str) -> str:
    lines = [(f"/{name} {command.takes}".rstrip(), command.does) for name, command in COMMANDS.items()]
    width = max(len(left) for left, _ in lines)
    return "\n".join(
        [
            *(f"{left:<{width}}  {does}" for left, does in lines),
            "",
            'A line that ends in a backslash goes on in the next one; between """ and """ stand several lines.',
            "Ctrl-C stops an answer, and on an empty line it ends the conversation, as Ctrl-D does.",
        ]
    )


def _system(talk: Any, rest: str) -> str:
    if not rest:
        return f"the system message is: {talk.system}" if talk.system else "there is no system message"
    talk.instruct("" if rest == "-" else rest)
    return "the system message stands before the conversation from now on" if talk.system else "no system message"


def _set(talk: Any, rest: str) -> str:
    from llmspec.core.problems import dotted
    from llmspec.spec import override_decoding

    if not rest:
        return "\n".join(f"{key}: {_shown(value)}" for key, value in talk.decoding.model_dump(mode="json").items())
    key, value = (*BETWEEN.split(rest, maxsplit=1), "")[:2]
    key = key.removeprefix("decoding.")
    if not key or not value:
        raise LlmspecError("a setting and its value are missing", hint="/set temperature 0.5; /set alone shows all")
    try:
        decoding = override_decoding(talk.decoding, [f"decoding.{key}={value}"])
    except LlmspecError as error:
        raise LlmspecError(
            [Problem(f"{dotted(p.path[1:]) or key}: {p.message}", (), p.hint, p.consequence) for p in error.problems]
        ) from None
    found = f"{key}: {_shown(decoding.model_dump(mode='json')[key])}"
    talk.decoding = decoding
    return found


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _undo(talk: Any, rest: str) -> str:
    taken = talk.undo()
    return "there is nothing to take back" if taken is None else f"taken back: {taken[0]}"


def _clear(talk: Any, rest: str) -> str:
    talk.clear()
    return "a new conversation begins"


def _context(talk: Any, rest: str) -> str:
    return context_of(talk)


def context_of(talk: Any) -> str:
    """How much of the context is used, and what is left out."""
    left = f"; the oldest {talk.left_out} turns are no longer read" if talk.left_out else ""
    return f"context {talk.used:,} of {talk.context:,} tokens{left}"


def _save(talk: Any, rest: str) -> str:
    if not rest:
        raise LlmspecError("a file is missing", hint=f"/save talk{LINES}")
    if "\0" in rest:
        raise LlmspecError("no file's name holds a NUL character", hint=f"/save talk{LINES}")
    path = Path(os.path.expanduser(rest))
    if path.suffix != LINES:
        folder = not path.name or os.path.isdir(path)  # `.` and `/` have no name that could get an ending
        raise LlmspecError(
            f"a conversation is saved as a line of JSON, and `{rest}` does not end in {LINES}",
            hint=f"/save {path / f'talk{LINES}' if folder else path.with_suffix(LINES)}, which a source of kind files "
            "reads as dialogues",
        )
    if not talk.turns:
        raise LlmspecError("nothing was said yet", hint="ask something first")
    line = json.dumps({"messages": talk.messages()}, ensure_ascii=False) + "\n"
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            there = file.tell()
            file.write(line)
    except OSError as error:
        raise LlmspecError(f"it cannot be saved: {path}: {error.strerror or error}") from None
    return (
        f"{len(talk.turns)} turns are {'appended to' if there else 'written to'} {path} ({count(len(line))} characters)"
    )


def _quit(talk: Any, rest: str) -> str:
    raise End


COMMANDS = {
    "help": Command("", "this list", _help),
    "system": Command("TEXT", "the system message, from now on; `-` for none; alone: what it is", _system),
    "set": Command("SETTING VALUE", "a decoding setting, as in /set temperature 0.5; alone: all of them", _set),
    "undo": Command("", "takes back the last question and its answer", _undo),
    "clear": Command("", "a new conversation, with the same system message and settings", _clear),
    "context": Command("", "how much of the model's context the conversation takes", _context),
    "save": Command("FILE.jsonl", "appends the conversation to a file, as training data have it", _save),
    "quit": Command("", "ends", _quit),
}
