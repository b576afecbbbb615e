"""What is wrong with a user's input, where it stands, and what to do about it."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmspec.core.visible import visible

Path = tuple[str | int, ...]
EXCERPT = 160
"""Characters that are shown of a line."""
_PLAIN = re.compile(r'[^."\[\]=\s]+')


@dataclass(frozen=True)
class Mark:
    """A place in a text: file name, 1-based line and column (line 0: no file, but an argument named `file`).

    `text` is the line as written; `length` characters of it, from `caret` (0-based) on, are what is meant.
    """

    file: str
    line: int
    column: int
    text: str = ""
    caret: int = 0
    length: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def excerpt(self) -> str:
        """The line, and carets below what is meant, each indented; of a long line what lies around it."""
        if not self.text:
            return ""
        indent = len(self.text) - len(self.text.lstrip(" "))
        line = self.text.rstrip().replace("\t", " ")
        start = max(indent, self.caret - EXCERPT // 2)
        end = start + EXCERPT
        lead, tail = "…" if start > indent else "", "…" if len(line) > end else ""
        shown = f"\n    | {lead}{visible(line[start:end], keep='')}{tail}"
        if not self.length or self.caret < indent:
            return shown
        before, meant = (
            visible(line[a:b], keep="")
            for a, b in ((start, self.caret), (self.caret, min(end, self.caret + self.length)))
        )
        carets = "^" * max(1, columns(meant) if meant else min(self.length, EXCERPT))
        return f"{shown}\n    | {' ' * (columns(lead + before))}{carets}"


@dataclass(frozen=True)
class Problem:
    """One mistake. `message` says what is wrong, `consequence` what would have happened, `hint` what to write."""

    message: str
    path: Path = ()
    hint: str = ""
    consequence: str = ""
    mark: Mark | None = None

    def at(self, *prefix: str | int) -> Problem:
        """The same problem seen from further up: `prefix` goes before its path."""
        return Problem(self.message, (*prefix, *self.path), self.hint, self.consequence, self.mark)

    def __str__(self) -> str:
        where = f"{self.mark}: " if self.mark else ""
        path = f"{dotted(self.path)}: " if self.path else ""
        text = f"{where}{path}{self.message}"
        if self.mark:
            text += self.mark.excerpt()
        if self.hint:
            text += f"\n    hint: {self.hint}"
        if self.consequence:
            text += f"\n    otherwise: {self.consequence}"
        return text


@dataclass
class LlmspecError(Exception):
    """Anything the user can mend. The command line prints it without a traceback and exits with 2."""

    problems: tuple[Problem, ...] = field(default_factory=tuple)

    def __init__(self, problems: Iterable[Problem] | Problem | str, hint: str = "", consequence: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(problems, hint=hint, consequence=consequence)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems)


class SpecError(LlmspecError):
    """The spec is wrong: every problem found, in the order of the file."""


class DataError(LlmspecError):
    """A source cannot be read, is too short, or does not hash to what the spec says."""


class RunError(LlmspecError):
    """A run directory cannot be written, read or continued."""


class KnownInPart(RunError):
    """Something is refused, and something of it is known all the same: `known`, JSON-able, which has been told."""

    def __init__(self, problems: Iterable[Problem], known: Mapping[str, Any]) -> None:
        super().__init__(problems)
        self.known = dict(known)


class WriteError(RunError):
    """A file cannot be written: what the operating system says, and what that means for a run."""


def dotted(path: Path) -> str:
    """('phases', 'chat', 'stop', 0) -> 'phases.chat.stop[0]'; a key that holds dots or brackets is quoted."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
            continue
        shown = part if _PLAIN.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        out += f".{shown}" if out else shown
    return out


def columns(text: str) -> int:
    """The columns that a text takes on a terminal: East Asian wide characters take two, marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` most likely meant, or None where nothing is near."""
    by_folded = {c.lower().replace("-", "_"): c for c in choices}
    close = difflib.get_close_matches(str(word).lower().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def article(word: str) -> str:
    """`a` or `an`, as it stands before a word."""
    return "an" if word[:1] in "aeiou" or word == "mlp" else "a"


def either(words: Iterable[str]) -> str:
    """Names of sorts in a sentence: `a policy, a filler or an embedder`."""
    *others, last = (f"{article(word)} {word.replace('_', ' ')}" for word in words)
    return f"{', '.join(others)} or {last}" if others else last


def one_of(word: str, choices: Iterable[str]) -> str:
    """A hint: the nearest right spelling if there is one, else the whole list."""
    choices = list(choices)
    near = nearest(word, choices)
    return f"did you mean `{near}`?" if near else f"one of: {', '.join(choices)}"
