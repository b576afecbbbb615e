"""Worse answers that are made of other records: the chosen answer to one prompt is a wrong one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmspec.data.layout import shuffled
from llmspec.data.preferences import Compared, prompt_text
from llmspec.data.split import SIDES, TRAINS, Shaped
from llmspec.parts.sources import Source
from llmspec.parts.templates.base import Pieces

if TYPE_CHECKING:
    from llmspec.data.reading import SourceReading

POOL = 1 << 16
"""Answers of a side that are held in memory at most: records are gone through in windows of about as many."""


class Chosen(NamedTuple):
    """The chosen answer of a record."""

    prompt: str
    answer: Pieces


class Window(NamedTuple):
    """Records of a side whose answers are exchanged among each other."""

    place: dict[int, int]
    """Number of a record -> where it stands in the window's order."""
    order: list[Chosen]
    """In an order that is drawn: each record gets the answer of the one behind it."""


class Derived:
    """Gives each record of a source the answer of another one on its side, drawn from the seed and the source; nothing
    where the source has worse answers of its own.

    The answers of a window are exchanged, so that each is the worse one as often as it is the better one, once: what is
    worse is never told by the answer alone.
    """

    def __init__(self, source: Source, reading: SourceReading, seed: int, compares: bool) -> None:
        """`compares`: whether records are read as answers that are compared."""
        self._reading, self._seed = reading, seed
        derives = compares and source.rejected_from is not None
        self._held = [_held(reading, side) for side in range(len(SIDES))] if derives else []
        self._borders = [np.linspace(0, len(h), max(1, -(-len(h) // POOL)) + 1).astype(np.int64) for h in self._held]
        self._windows: dict[int, tuple[int, Window]] = {}
        """By side: the window that was asked for last, and its number."""

    def item(self, side: int, number: int, item: Shaped) -> Shaped:
        """A document with a worse answer; with none to compare where no other record has another answer."""
        if not self._held or item.compared is None:
            return item
        own, (place, order) = item.compared, self._window(side, number)
        prompt, at = prompt_text(own), place.get(number, 0)
        for step in range(1, len(order) + 1):
            found = order[(at + step) % len(order)]
            if found.prompt != prompt and found.answer != own.answers[0]:
                return item._replace(compared=_with(own, found.answer))
        return item._replace(compared=None)

    def _window(self, side: int, number: int) -> Window:
        """The window that holds a record."""
        held, borders = self._held[side], self._borders[side]
        rank = int(np.searchsorted(held, number))
        nth = min(int(np.searchsorted(borders, rank, side="right")) - 1, len(borders) - 2)
        if side not in self._windows or self._windows[side][0] != nth:
            self._windows[side] = nth, self._read(side, nth, held[borders[nth] : borders[nth + 1]])
        return self._windows[side][1]

    def _read(self, side: int, nth: int, numbers: np.ndarray) -> Window:
        wanted = set(numbers.tolist())
        found = [
            (number, Chosen(prompt_text(item.compared), item.compared.answers[0]))
            for of, number, item in self._reading.walk()
            if of == side and number in wanted and item.compared is not None
        ]
        order = shuffled(len(found), self._seed, self._reading.name, "answers", SIDES[side], nth).tolist()
        return Window({found[i][0]: at for at, i in enumerate(order)}, [found[i][1] for i in order])


def _with(found: Compared, worse: Pieces) -> Compared:
    return found._replace(answers=(*found.answers, worse), ranks=(0, 1))


def _held(reading: SourceReading, side: int) -> np.ndarray:
    """(n,) numbers of the records of a side that are compared, in order."""
    survey = reading.survey
    held = survey.on(side) & survey.compares
    if side == TRAINS and not reading.allowed:
        held &= ~reading.contaminated["preference"]
    return np.flatnonzero(held)
