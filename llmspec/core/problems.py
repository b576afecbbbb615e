"""What is wrong with a user's input, where it stands, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """A place in a text: file name, 1-based line and column, and the offending text itself."""

    file: str
    line: int
    column: int
    text: str = ""


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
        where = f"{self.mark.file}:{self.mark.line}:{self.mark.column}: " if self.mark else ""
        path = f"{dotted(self.path)}: " if self.path else ""
        text = f"{where}{path}{self.message}"
        if self.mark and self.mark.text:
            text += f"\n    | {self.mark.text}"
        if self.hint:
            text += f"\n    hint: {self.hint}"
        if self.consequence:
            text += f"\n    else: {self.consequence}"
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


def dotted(path: Path) -> str:
    """('phases', 'chat', 'stop', 0) -> 'phases.chat.stop[0]'."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else part)
    return out


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` most likely meant, or None where nothing is near."""
    by_folded = {c.lower().replace("-", "_"): c for c in choices}
    close = difflib.get_close_matches(str(word).lower().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def one_of(word: str, choices: Iterable[str]) -> str:
    """A hint: the nearest right spelling if there is one, else the whole list."""
    choices = list(choices)
    near = nearest(word, choices)
    return f"did you mean `{near}`?" if near else f"one of: {', '.join(choices)}"
