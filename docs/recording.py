"""Pictures of llmspec at work in a terminal: docs/run.svg and docs/explain.svg, and docs/assistant.svg of a run.

    python docs/recording.py
    python docs/recording.py runs/assistant

The first writes docs/tiny.yaml's run and reports into pseudo-terminals, follows what is on their screens (terminal.py),
and draws that as SVG with one animation. Times and speeds are those of the machine that records; nothing else is.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from terminal import Cell, Style, Terminal

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 96, 32
WIDE, HIGH, TOP, EDGE = 8.4, 18, 40, 14
"""Pixels: of a character, of a line, above the first line, beside the lines."""
FRAME = 0.2
"""Seconds between two looks at the screen."""
TYPED, BEFORE, PAUSE, LAST, PAGE, MOST = 0.04, 0.6, 1.0, 6.0, 4.0, 15.0
"""Seconds of a typed letter, before a command starts, of a longer wait, of the last frame, of a page, of a run."""
BACKGROUND, FOREGROUND = "#0d1117", "#c9d1d9"

SIDE_BY_SIDE = "the same prompts"
"""What the part of a report begins with that shows answers after every phase."""

Screen = tuple[tuple[Cell, ...], ...]


class Frame(NamedTuple):
    """What is on the screen from a moment on (seconds since the beginning)."""

    begin: float
    screen: Screen


def environment() -> dict[str, str]:
    """Of the recorded commands: a terminal with 256 colours, of this checkout."""
    mine = {
        k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "COLORTERM", "FORCE_COLOR")
    }
    return {**mine, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def output(arguments: Sequence[str], folder: Path, rows: int) -> Iterator[str]:
    """What a command writes to a terminal, piece by piece; an empty piece whenever nothing came for a frame.

    Raises RuntimeError where it fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
    process = subprocess.Popen(
        arguments, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment(), close_fds=True
    )
    os.close(theirs)
    undecoded = b""
    while True:
        if not select.select([ours], [], [], FRAME)[0]:
            yield ""
            continue
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux says so where the other side is closed
            piece = b""
        if not piece:
            break
        undecoded += piece
        whole = undecoded.decode("utf-8", "ignore")
        undecoded = undecoded[len(whole.encode()) :]
        yield whole
    os.close(ours)
    if process.wait():
        raise RuntimeError(f"{' '.join(arguments)} ended with status {process.returncode}")


class Recorder:
    """Frames of one terminal in which commands are typed and run."""

    def __init__(self) -> None:
        self.terminal = Terminal(COLUMNS, ROWS)
        self.frames: list[Frame] = []
        self.now = 0.0

    def look(self, seconds: float) -> None:
        """Notes what is on the screen, if that is new, and lets time pass."""
        screen = self.terminal.screen()
        if not self.frames or self.frames[-1].screen != screen:
            self.frames.append(Frame(self.now, screen))
        self.now += seconds

    def type(self, command: str) -> None:
        """A prompt, and a command letter by letter."""
        self.terminal.feed("\x1b[32m$\x1b[0m ")
        for letter in command:
            self.terminal.feed(f"\x1b[1m{letter}\x1b[0m")
            self.look(TYPED)
        self.look(BEFORE)
        self.terminal.feed("\r\n")

    def print(self, text: str) -> None:
        """Text that comes at once."""
        self.terminal.feed(text.replace("\n", "\r\n"))
        self.look(PAUSE)

    def run(self, arguments: Sequence[str], folder: Path) -> None:
        """A command of llmspec, in its own time or sped up to MOST; waits longer than PAUSE are cut."""
        began, waited = time.monotonic(), 0.0
        first, start = len(self.frames), self.now
        for piece in output([sys.executable, "-m", "llmspec", *arguments], folder, ROWS):
            self.terminal.feed(piece)
            waited = 0.0 if piece else waited + FRAME
            passed = time.monotonic() - began
            if passed >= FRAME:
                began = time.monotonic()
                self.look(FRAME if waited <= PAUSE else 0.0)
        self.look(0.0)
        speed = min(1.0, MOST / max(self.now - start, FRAME))
        self.frames[first:] = [f._replace(begin=start + (f.begin - start) * speed) for f in self.frames[first:]]
        self.now = start + (self.now - start) * speed

    def pages(self, command: str, arguments: Sequence[str], folder: Path, most: int, start: str = "") -> int:
        """A command, and the first `most` pages of what it wrote, one by one, from the line that begins with
        `start`; returns the first page's frame."""
        self.terminal = Terminal(COLUMNS, ROWS)
        self.type(command)
        whole = Terminal(COLUMNS, 4000)
        for piece in output([sys.executable, "-m", "llmspec", *arguments], folder, ROWS):
            whole.feed(piece)
        first, lines = self.terminal.screen()[0], whole.written()
        lines = lines[next(i for i, line in enumerate(lines) if words(line).startswith(start)) :]
        lines, page = (first, *lines), len(self.frames)
        for at in range(0, min(len(lines), most * ROWS), ROWS):
            shown = lines[at : at + ROWS]
            self.frames.append(Frame(self.now, (*shown, *[()] * (ROWS - len(shown)))))
            self.now += PAGE
        return page


def words(line: tuple[Cell, ...]) -> str:
    """A line's text."""
    return "".join(character for character, _ in line)


def look_of(style: Style) -> str:
    """A style as attributes of SVG."""
    color, background = style.color or FOREGROUND, style.background or BACKGROUND
    if style.reverse:
        color, background = background, color
    said = [f'fill="{color}"'] if color != FOREGROUND else []
    said += ['font-weight="bold"'] * style.bold + ['font-style="italic"'] * style.italic
    said += ['opacity=".6"'] * style.dim + ['text-decoration="underline"'] * style.underline
    return "".join(" " + word for word in said)


def row_as_svg(line: tuple[Cell, ...]) -> str:
    """A line's texts, one for each stretch of one style; blanks alone are left out."""
    out, x = [], 0
    for style, cells in groupby(line, key=lambda cell: cell[1]):
        found = list(cells)
        text = words(tuple(found))
        begin, x = x, x + len(found)
        background = style.color or FOREGROUND if style.reverse else style.background
        if background:
            out.append(f'<rect x="{begin * WIDE:g}" y="{4 - HIGH}" width="{len(found) * WIDE:g}" height="{HIGH}" '
                       f'fill="{background}"/>')  # fmt: skip
        inner = text.strip(" ")
        if not inner:
            continue
        begin += len(text) - len(text.lstrip(" "))
        cells_wide = len(found) - (len(text) - len(inner))
        shown = escape(inner).replace(" ", "\u00a0")
        out.append(f'<text x="{begin * WIDE:.4g}" textLength="{cells_wide * WIDE:.4g}"{look_of(style)}>{shown}</text>')
    return "".join(out)


class Stretch(NamedTuple):
    """A line that stands in one row from frame `first` up to, but not with, frame `end`."""

    row: int
    line: tuple[Cell, ...]
    first: int
    end: int


def stretches(frames: Sequence[Frame]) -> Iterator[Stretch]:
    """Every line of a recording once for each time it is there without a break."""
    for row in range(ROWS):
        at = 0
        for line, run in groupby(frame.screen[row] for frame in frames):
            first, at = at, at + len(list(run))
            if line:
                yield Stretch(row, line, first, at)


def svg(frames: Sequence[Frame], seconds: float, still: int, title: str) -> str:
    """A recording as SVG. Where nothing moves (readers' settings, other viewers) it shows frame number `still`."""
    width, height = round(2 * EDGE + COLUMNS * WIDE), TOP + ROWS * HIGH + EDGE
    rules: dict[tuple[int, int], str] = {}
    body = []
    for row, line, first, end in stretches(frames):
        name = ""
        if (first, end) != (0, len(frames)):
            name = rules.setdefault((first, end), f"s{len(rules)}") + (" v" if first <= still < end else " h")
        where = f'<g transform="translate({EDGE} {TOP + HIGH * row + 13})"'
        body.append(where + (f' class="{name}"' if name else "") + f">{row_as_svg(line)}</g>")
    style = "".join(_rule(name, frames, seconds, *span) for span, name in rules.items())
    dots = "".join(f'<circle cx="{20 + 18 * i}" cy="18" r="5.5" fill="{c}"/>' for i, c in enumerate(
        ("#ff5f57", "#febc2e", "#28c840")))  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>\n<style>'
        'text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:14px;'
        "white-space:pre}.h{visibility:hidden}"
        f"@media (prefers-reduced-motion:no-preference){{{style}}}</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>{dots}\n'
        f'<g fill="{FOREGROUND}">\n' + "\n".join(body) + "\n</g></svg>\n"
    )


def _rule(name: str, frames: Sequence[Frame], seconds: float, first: int, end: int) -> str:
    """The animation of whatever is seen from frame `first` to frame `end`."""
    begin = 100 * frames[first].begin / seconds
    stop = 100 * frames[end].begin / seconds if end < len(frames) else 100.0
    steps = ["0%{visibility:hidden}"] * (begin > 0) + [f"{begin:.3g}%{{visibility:visible}}"]
    steps += [f"{stop:.3g}%,to{{visibility:hidden}}"] * (stop < 100) or ["to{visibility:visible}"]
    return f".{name}{{animation:{name} {seconds:.3g}s step-end infinite}}@keyframes {name}{{{''.join(steps)}}}"


def save(name: str, recorder: Recorder, seconds: float, still: int, title: str) -> None:
    """Writes docs/NAME.svg. Raises ValueError where it would tell of the machine on which it was made."""
    text = svg(recorder.frames, seconds, still, title)
    for secret in (str(ROOT), tempfile.gettempdir(), str(Path.home()), socket.gethostname()):
        if len(secret) > 1 and secret in text:
            raise ValueError(f"{name}.svg would show {secret!r}")
    (ROOT / "docs" / f"{name}.svg").write_text(text, "utf-8")
    print(f"docs/{name}.svg: {len(recorder.frames)} frames, {seconds:.0f} s, {len(text) / 1024:.0f} KiB")


def assistant(run: Path) -> None:
    """Draws what `explain` says of a run of specs/assistant.yaml: the same questions after every phase."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(run, folder / "runs" / "assistant")
        recorder = Recorder()
        page = recorder.pages("llmspec explain runs/assistant", ["explain", "runs/assistant"], folder, 2, SIDE_BY_SIDE)
        title = "llmspec explain runs/assistant: the same questions, answered after every phase from raw text to PPO"
        save("assistant", recorder, recorder.now, page, title)


def main() -> None:
    """Records both pictures in a folder of their own."""
    if len(sys.argv) > 1:
        return assistant(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        spec = shutil.copy(ROOT / "docs" / "tiny.yaml", folder / "tiny.yaml")
        run = Recorder()
        run.type("cat tiny.yaml")
        run.print(Path(spec).read_text("utf-8"))
        run.type("llmspec run tiny.yaml")
        run.run(["run", "tiny.yaml"], folder)
        training = max(i for i, f in enumerate(run.frames) if any("ETA" in words(line) for line in f.screen))
        save("run", run, run.now + LAST, training, "llmspec run: a short spec is trained")

        explain = Recorder()
        page = explain.pages("llmspec explain tiny.yaml", ["explain", "tiny.yaml"], folder, 4)
        prompt = "**HAMLET**  \n"
        ask = ["explain", "runs/tiny", "--prompt", prompt, "--seed", "1"]
        explain.pages("llmspec explain runs/tiny --prompt '**HAMLET**' --seed 1", ask, folder, 1)
        save("explain", explain, explain.now, page, "llmspec explain: what a spec will do, page by page")


if __name__ == "__main__":
    main()
