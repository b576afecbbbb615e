"""What a person types into a conversation, or gives on standard input: lines, several of them joined, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Any

from llmspec.cli.verb import utf8
from llmspec.core.problems import LlmspecError, Mark, Problem

QUOTES = '"""'
"""Begins and ends a text of several lines."""
PROMPT, MORE = "> ", ". "


class Input:
    """Texts, one after the other: a line each; those that end in a backslash go on, and so does what stands between
    lines of three quotes."""

    def __init__(self) -> None:
        self.typed = sys.stdin.isatty()
        """Whether a person sits there."""
        self._line, self._text = 0, ""
        self._edited = False
        if self.typed and sys.stdout.isatty():
            with suppress(ImportError):  # not on every system
                import readline

                readline.set_auto_history(True)
                self._edited = True

    def __iter__(self) -> Iterator[str]:
        """Until the input ends. Raises KeyboardInterrupt for a Ctrl-C on an empty line."""
        while True:
            try:
                if (text := self._next()) is None:
                    return
            except _Discarded:
                continue
            yield text

    def _next(self) -> str | None:
        lines, quoted = list[str](), False
        while True:
            line = self._read(MORE if lines or quoted else PROMPT, bool(lines))
            if line is None:
                if quoted and not self.typed:
                    raise LlmspecError(
                        f"standard input ends within a text that {QUOTES} begins", f"end it with {QUOTES}"
                    )
                return "\n".join(lines) if lines and not self.typed else None
            if not lines and not quoted and line.lstrip().startswith(QUOTES):
                quoted, line = True, line.lstrip()[len(QUOTES) :]
                if not line.strip():
                    continue
            if quoted:
                if line.rstrip().endswith(QUOTES):
                    last = line.rstrip()[: -len(QUOTES)]
                    return "\n".join([*lines, *([last] if last.strip() else [])])
                lines.append(line)
            elif line.endswith("\\"):
                lines.append(line[:-1])
            else:
                return "\n".join([*lines, line])

    def _read(self, prompt: str, begun: bool) -> str | None:
        """A line without its end; None where there are no more."""
        self._line += 1
        if not self.typed:
            raw = sys.stdin.buffer.readline()
            try:
                self._text = raw.decode("utf-8-sig" if self._line == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise LlmspecError(
                    [Problem("this line is not UTF-8 text", hint="give it in UTF-8", mark=self._mark(""))]
                ) from None
            return self._text if raw else None
        from llmspec.render.terminal import ask, err

        try:
            return utf8(ask(prompt, self._edited))
        except EOFError:
            err().write("\n")
            return None
        except UnicodeError:
            from llmspec.render.problems import show

            show([Problem("what was typed is not UTF-8 text", hint="type it again")])
            raise _Discarded from None
        except KeyboardInterrupt:
            err().write("\n")
            if begun or self._held():
                raise _Discarded from None
            raise

    def _held(self) -> bool:
        """Whether something was typed that no Enter has ended."""
        if not self._edited:
            return False
        import readline

        return bool(readline.get_line_buffer())

    def _mark(self, text: str) -> Mark:
        return Mark("standard input", self._line, 1, text)

    def placed(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems with the line that was read last, where they have no place of their own."""
        return [replace(p, mark=self._mark(self._text)) for p in problems]

    @contextmanager
    def stopping(self) -> Iterator[Callable[[], bool]]:
        """Whether Ctrl-C was pressed within; a second one raises KeyboardInterrupt at once.

        Only where a person sits there: otherwise the first one does.
        """
        if not self.typed or threading.current_thread() is not threading.main_thread():
            yield lambda: False
            return
        pressed = 0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal pressed
            pressed += 1
            if pressed > 1:
                raise KeyboardInterrupt

        before: Any = signal.signal(signal.SIGINT, handle)
        try:
            yield lambda: pressed > 0
        finally:
            signal.signal(signal.SIGINT, before)


class _Discarded(Exception):
    """A text was begun, and Ctrl-C has taken it away."""
