"""The product under a pseudo-terminal, behind pipes and full disks, for tests of what it prints."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from pathlib import Path

import tiny

from llmspec.core.visible import acts

HOSTILE = "a\x1b]0;owned\x07\x1b[2Jb\u202ec\x9b2Jd\x7f[red]e[/x] :dog: f\r\u2028g"
"""Escape sequences, direction marks, C1 controls, markup and an emoji's name."""
RICHS = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[hl]|[0-9]*[AK])|\r")
"""What rich itself writes: colours, the cursor up, hidden and shown, a line cleared."""


def environment(**more: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PYTHONIOENCODING")}
    return {**env, "PYTHONPATH": str(tiny.ROOT), "TERM": "xterm-256color", **more}


def on_terminal(*arguments: str | Path, cwd: Path | None = None, columns: int = 80) -> tuple[int, str]:
    """(exit status, what a terminal got) of a command whose three streams are a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    process = subprocess.Popen(
        tiny.command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment()
    )
    os.close(theirs)
    found = b""
    try:
        while block := os.read(ours, 65536):
            found += block
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    return process.wait(), found.decode("utf-8", "surrogateescape")


def acting(text: str) -> str:
    """The characters with which something that is not rich's would act on a terminal."""
    return "".join(c for c in RICHS.sub("", text) if acts(c) and c not in "\n\t")


def shell(line: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """A line for bash, in which $LLMSPEC is the command."""
    command = " ".join(tiny.command())
    return subprocess.run(
        ["bash", "-c", line.replace("$LLMSPEC", command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**more),
        timeout=600,
    )


def shell_words(line: str) -> list[str]:
    """The words that bash makes of a line, as Python has them in sys.argv."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"],
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


class Typed:
    """A command on a terminal at which somebody types, and reads what comes."""

    def __init__(self, *arguments: str | Path, cwd: Path | None = None) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 200))
        command = tiny.command(*arguments)
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment(TERM="dumb")
        )
        os.close(theirs)
        self.seen = ""

    def __enter__(self) -> Typed:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, line: str) -> None:
        """A line, and Enter."""
        os.write(self._ours, (line + "\n").encode())

    def until(self, *words: str, seconds: float = 120) -> str:
        """What the terminal got, up to and with the last of the words, which come in this order."""
        begun, end = self.seen, time.monotonic() + seconds
        for word in words:
            while word not in self.seen:
                ready, _, _ = select.select([self._ours], [], [], max(0, end - time.monotonic()))
                assert ready, f"{word!r} did not come: {begun}{self.seen}"
                try:
                    self.seen += os.read(self._ours, 65536).decode("utf-8", "replace")
                except OSError as gone:
                    raise AssertionError(f"{word!r} did not come before the end: {begun}{self.seen}") from gone
            before, self.seen = self.seen.split(word, 1)
            begun += before + word
        return begun

    def ended(self) -> int:
        """The exit status."""
        return self.process.wait(60)
