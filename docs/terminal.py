"""A terminal in memory: takes what a program writes to one, and knows what is then on its screen.

It understands what Rich writes (text, colours, movements of the cursor, erasing); anything else is an error, so that a
recording never shows what a real terminal would not.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

SEQUENCE = re.compile(r"\x1b\[(?P<private>\??)(?P<numbers>[\d;]*)(?P<letter>[A-Za-z])")
UNFINISHED = re.compile(r"\x1b(\[\??[\d;]*)?$")
PALETTE = (
    *("#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4"),
    *("#6e7681", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#f0f6fc"),
)
"""The sixteen colours of a terminal with a dark background."""
LEVELS = (0, 95, 135, 175, 215, 255)


class Style(NamedTuple):
    """How a character looks. Colours are `#rrggbb`, or "" for the terminal's own."""

    color: str = ""
    background: str = ""
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False


PLAIN = Style()
Cell = tuple[str, Style]
BLANK: Cell = (" ", PLAIN)
SWITCHES = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "reverse"}
OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("reverse",)}


def color_of(number: int) -> str:
    """One of the 256 colours of a terminal: sixteen, a cube of 216, and 24 greys."""
    if number < 16:
        return PALETTE[number]
    if number >= 232:
        return "#" + f"{8 + 10 * (number - 232):02x}" * 3
    red, green, blue = (LEVELS[(number - 16) // step % 6] for step in (36, 6, 1))
    return f"#{red:02x}{green:02x}{blue:02x}"


class Terminal:
    """A screen of `columns` × `rows` characters; lines that leave it at the top are kept in `gone`."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines: list[list[Cell]] = [[] for _ in range(rows)]
        self.gone: list[list[Cell]] = []
        self.x = self.y = 0
        self.style = PLAIN
        self.rest = ""

    def feed(self, text: str) -> None:
        """Takes output, which may end amid a control sequence. Raises ValueError for one it does not know."""
        text, self.rest = self.rest + text, ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._character(text[at])
                at += 1
            elif match := SEQUENCE.match(text, at):
                self._sequence(match)
                at = match.end()
            elif UNFINISHED.match(text, at):
                self.rest = text[at:]
                return
            else:
                raise ValueError(f"unknown control sequence {text[at : at + 12]!r}")

    def screen(self) -> tuple[tuple[Cell, ...], ...]:
        """The lines on the screen, without what is blank at their ends."""
        return tuple(stripped(line) for line in self.lines)

    def written(self) -> tuple[tuple[Cell, ...], ...]:
        """All lines so far, those that left the screen among them, without blank ones at the end."""
        found = [stripped(line) for line in (*self.gone, *self.lines)]
        while found and not found[-1]:
            found.pop()
        return tuple(found)

    def _character(self, character: str) -> None:
        if character == "\n":
            self._down()
        elif character == "\r":
            self.x = 0
        elif character == "\b":
            self.x = max(0, self.x - 1)
        elif character == "\t":
            self.x = min(self.columns - 1, (self.x // 8 + 1) * 8)
        elif unicodedata.combining(character) and self.x:
            base, style = self.lines[self.y][self.x - 1]
            self.lines[self.y][self.x - 1] = (base + character, style)
        elif character < " ":
            raise ValueError(f"unknown control character {character!r}")
        else:
            self._put(character)

    def _put(self, character: str) -> None:
        width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if self.x + width > self.columns:
            self.x = 0
            self._down()
        line = self.lines[self.y]
        line += [BLANK] * (self.x + width - len(line))
        line[self.x : self.x + width] = [(character, self.style), ("", self.style)][:width]
        self.x += width

    def _down(self) -> None:
        self.y += 1
        if self.y == self.rows:
            self.gone.append(self.lines.pop(0))
            self.lines.append([])
            self.y -= 1

    def _sequence(self, match: re.Match[str]) -> None:
        letter, numbers = match["letter"], [int(n or 0) for n in match["numbers"].split(";")]
        count = max(1, numbers[0])
        if match["private"]:
            return  # the cursor is hidden or shown, which a picture has no use for
        if letter == "m":
            self._look(numbers)
        elif letter == "A":
            self.y = max(0, self.y - count)
        elif letter == "B":
            self.y = min(self.rows - 1, self.y + count)
        elif letter == "C":
            self.x = min(self.columns - 1, self.x + count)
        elif letter == "D":
            self.x = max(0, self.x - count)
        elif letter == "G":
            self.x = count - 1
        elif letter == "H":
            self.y, self.x = count - 1, max(1, *numbers[1:2]) - 1 if numbers[1:] else 0
        elif letter == "K":
            self._erase_line(numbers[0])
        elif letter == "J" and numbers[0] in (0, 2):
            self._erase_line(0)
            self.lines[self.y + 1 :] = [[] for _ in self.lines[self.y + 1 :]]
            if numbers[0] == 2:
                self.lines = [[] for _ in self.lines]
        else:
            raise ValueError(f"unknown control sequence {match[0]!r}")

    def _erase_line(self, what: int) -> None:
        line = self.lines[self.y]
        if what == 0:
            del line[self.x :]
        elif what == 1:
            line[: self.x + 1] = [BLANK] * min(len(line), self.x + 1)
        else:
            line.clear()

    def _look(self, numbers: list[int]) -> None:
        left = list(numbers)
        while left:
            code = left.pop(0)
            if code == 0:
                self.style = PLAIN
            elif code in SWITCHES:
                self.style = self.style._replace(**{SWITCHES[code]: True})
            elif code in OFF:
                self.style = self.style._replace(**dict.fromkeys(OFF[code], False))
            elif code in (38, 48):
                key, kind = ("color", "background")[code == 48], left.pop(0)
                taken = [left.pop(0) for _ in range(3 if kind == 2 else 1)]
                value = "#" + "".join(f"{n:02x}" for n in taken) if kind == 2 else color_of(taken[0])
                self.style = self.style._replace(**{key: value})
            elif code in (39, 49):
                self.style = self.style._replace(**{("color", "background")[code == 49]: ""})
            elif code // 10 in (3, 4, 9, 10) and code % 10 < 8:
                key = "color" if code // 10 in (3, 9) else "background"
                self.style = self.style._replace(**{key: PALETTE[code % 10 + 8 * (code >= 90)]})
            else:
                raise ValueError(f"unknown style {code}")


def stripped(line: list[Cell]) -> tuple[Cell, ...]:
    """A line without the blanks at its end."""
    end = len(line)
    while end and line[end - 1] == BLANK:
        end -= 1
    return tuple(line[:end])
