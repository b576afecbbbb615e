"""Worse answers that are made of other records: the chosen answer to one prompt is a wrong one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmspec.data.layout import random_bits, shuffled
from llmspec.data.preferences import Compared, prompt_text
from llmspec.data.split import SIDES, TRAINS, Shaped
from llmspec.parts.sources import Source
from llmspec.parts.templates.base import Pieces

if TYPE_CHECKING:
    from llmspec.data.reading import SourceReading

POOL = 4096
"""Records of a side among which answers are drawn, at most; they are held in memory."""
TRIED = 16
"""Draws for a record, before all of the pool is gone through."""


class Chosen(NamedTuple):
    """The chosen answer of a record."""

    prompt: str
    answer: Pieces


class Derived:
    """Gives each record of a source the answer of another one on its side, drawn from the seed, the source and the
    record's number; nothing where the source has worse answers of its own."""

    def __init__(self, source: Source, reading: SourceReading, seed: int, compares: bool) -> None:
        """`compares`: whether records are read as answers that are compared."""
        self._name, self._seed = reading.name, seed
        derives = compares and source.rejected_from is not None
        self._pools = [_pool(reading, side, seed) for side in range(len(SIDES))] if derives else []

    def item(self, side: int, number: int, item: Shaped) -> Shaped:
        """A document with a worse answer; with none to compare where no other record has another answer."""
        if not self._pools or item.compared is None:
            return item
        own, pool = item.compared, self._pools[side]
        prompt = prompt_text(own)
        bits = random_bits(TRIED, self._seed, self._name, "rejected", SIDES[side], number)
        places = [int(bit % np.uint64(len(pool))) for bit in bits] if pool else []
        for place in (*places, *range(len(pool))):
            found = pool[place]
            if found.prompt != prompt and found.answer != own.answers[0]:
                return item._replace(compared=_with(own, found.answer))
        return item._replace(compared=None)


def _with(found: Compared, worse: Pieces) -> Compared:
    return found._replace(answers=(*found.answers, worse), ranks=(0, 1))


def _pool(reading: SourceReading, side: int, seed: int) -> list[Chosen]:
    survey = reading.survey
    held = survey.on(side) & survey.compares
    if side == TRAINS and not reading.allowed:
        held &= ~reading.contaminated["preference"]
    on = np.flatnonzero(held)
    chosen = set(on[shuffled(len(on), seed, reading.name, "answers", SIDES[side])[:POOL]].tolist())
    return [
        Chosen(prompt_text(item.compared), item.compared.answers[0])
        for of, number, item in reading.walk()
        if of == side and number in chosen and item.compared is not None
    ]
