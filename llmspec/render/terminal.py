"""The one way out: everything that is printed goes through here, so that no text acts on a terminal, no character
breaks an output that cannot write it, and an output that is gone is told from a disk that is full."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, Any, TextIO, cast

from rich import text as rich_text
from rich.console import Console
from rich.segment import Segment

from llmspec.core.visible import acts, escaped, visible
from llmspec.render.ascii import ASCII


class OutputLost(OSError):
    """What is printed no longer arrives: a terminal that is gone, a full disk behind `>`."""

    told = False
    """Said already, where it could be."""

    def __init__(self, error: OSError | ValueError) -> None:
        why = getattr(error, "strerror", None) or str(error)
        super().__init__(getattr(error, "errno", None), why)

    def __str__(self) -> str:
        return f"the output cannot be written: {self.strerror}"


class PipeClosed(OutputLost, BrokenPipeError):
    """What is printed no longer arrives, since the process that read it has ended: `| head`."""

    def __str__(self) -> str:
        return "stopped, since nobody reads the output any more (broken pipe)"


def lost(error: OSError | ValueError) -> OutputLost:
    """The failure of an output, as what it means."""
    if isinstance(error, OutputLost):
        return error
    return PipeClosed(error) if isinstance(error, BrokenPipeError) else OutputLost(error)


class Text(rich_text.Text):
    """Rich's text, in which no character acts."""

    def __init__(self, text: str = "", *arguments: Any, **settings: Any) -> None:
        super().__init__(visible(text), *arguments, **settings)

    def append(self, text: Any, style: Any = None) -> Text:
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self

    @classmethod
    def assemble(cls, *parts: Any, **settings: Any) -> Text:
        return cast(Text, super().assemble(*parts, **settings))


class Screen(Console):
    """Rich's console without markup, emoji codes and guessed colours, on which no text acts."""

    def __init__(self, stderr: bool = False, file: IO[str] | None = None, **settings: Any) -> None:
        super().__init__(stderr=stderr, file=file, markup=False, emoji=False, highlight=False, **settings)
        self.lost: OutputLost | None = None

    def render_str(self, text: str, **settings: Any) -> rich_text.Text:
        return super().render_str(visible(text), **{**settings, "markup": False, "emoji": False})

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        # The last gate, for whatever rich was given past `Text` and `render_str`.
        return super()._render_buffer(s if s.control else Segment(visible(s.text), s.style) for s in buffer)

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except (OSError, ValueError) as error:
            self.quiet = True
            del self._buffer[:]
            self.lost = lost(error)
            if threading.current_thread() is threading.main_thread():  # a live display's own thread has nobody to tell
                raise self.lost from error

    def on_broken_pipe(self) -> None:
        _raise_again(self)

    def write(self, text: str, style: str = "") -> None:
        """Text as it is where the output is no terminal, byte for byte; on a terminal it does not act."""
        if self.is_terminal:
            text = visible(text)
            if style and self._color_system is not None:
                text = self.get_style(style).render(text, color_system=self._color_system)
        try:
            self.file.write(text)
            self.file.flush()
        except (OSError, ValueError) as error:
            raise lost(error) from error


def out() -> Screen:
    """Standard output."""
    return Screen()


def err(**settings: Any) -> Screen:
    """Standard error: notices, progress, mistakes."""
    return Screen(stderr=True, **settings)


def ask(prompt: str, edited: bool) -> str:
    """A line that a person types, without its end, behind a prompt of ours; `edited` by readline, which is to be
    imported, and else with the prompt on standard error. Raises EOFError, KeyboardInterrupt."""
    if edited:
        return input(prompt)
    err().write(prompt)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def spinner(console: Screen) -> str:
    """A spinner that this output can write."""
    return "line" if console.options.ascii_only else "dots"


def print_json(value: Any, file: TextIO, indent: int | None = 1) -> None:
    """One JSON document and a line's end; numbers that JSON has not (NaN, infinities) are null.

    Raises OutputLost.
    """
    text = json.dumps(finite(value), ensure_ascii=False, indent=indent, allow_nan=False)
    text = re.sub(r"[\x7f-\uffff]", lambda m: f"\\u{ord(m[0]):04x}" if acts(m[0]) else m[0], text)
    try:
        text.encode(file.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(finite(value), indent=indent, allow_nan=False)
    try:
        file.write(text + "\n")
        file.flush()
    except (OSError, ValueError) as error:
        raise lost(error) from error


def finite(value: Any) -> Any:
    """The value with None for every float that is none in JSON."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- streams -------------------------------------------------------------------------------------------------------
def _raise_again(console: Console) -> None:
    """A closed pipe stays an exception; rich by itself would end the process without a word."""
    if error := sys.exc_info()[1]:
        raise error


def prepare_streams() -> tuple[str, ...]:
    """Standard streams that never fail on a character; the names of those that were closed before we began.

    A closed one is opened on the null device, also so that no file of a run gets its number and is printed into.
    """
    Console.on_broken_pipe = _raise_again  # type: ignore[method-assign,assignment]  # typer prints its help on one of its own
    closed = []
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null := os.open(os.devnull, os.O_RDWR), number)
            if null > 2:
                os.close(null)
            closed.append(name)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (stays open)
        stream: Any = getattr(sys, name)
        if mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="llmspec")
    return tuple(closed)


def written(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written for characters that an output cannot encode: our signs in ASCII, bytes of names as they came."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    if all(0xDC80 <= ord(c) <= 0xDCFF for c in found):
        return bytes(ord(c) - 0xDC00 for c in found), error.end
    return "".join(c.translate(ASCII) if ord(c) in ASCII else escaped(c) for c in found), error.end


codecs.register_error("llmspec", written)


def settle() -> None:
    """Sends what is still held for a stream that is gone to the null device, so that the process can end in peace."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
