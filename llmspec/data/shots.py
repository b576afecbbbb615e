"""Examples before a dialogue, as turns of it: other training records of its source, drawn from the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmspec.core.problems import DataError, Problem
from llmspec.data.layout import random_bits, shuffled
from llmspec.data.split import TRAINS, Shaped
from llmspec.parts.sources import Source
from llmspec.parts.templates.base import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmspec.data.reading import SourceReading
    from llmspec.parts.phases import Phase

POOL = 4096
"""Records of a source among which examples are drawn, at most; they are held in memory."""
SHOWN = 400
"""Characters of a turn that are kept to be looked at."""
SAID = ("user", "assistant")
"""Roles whose turns an example has; what the system says stands once, before all of them."""


class Shot(NamedTuple):
    """A record that may be an example."""

    number: int
    """Of its document in the source."""
    where: str
    turns: tuple[Turn, ...]


class Shots:
    """The examples of each record of a source: a function of the seed, the source and the record's number."""

    def __init__(self, name: str, count: int, pool: Sequence[Shot], seed: int) -> None:
        """`pool` are training records that no source validates with."""
        self._name, self._count, self._pool, self._seed = name, count, pool, seed

    def of(self, number: int, turns: Sequence[Turn]) -> list[Shot]:
        """The examples before a record of these turns: neither itself nor one that says the same.

        Raises DataError where there are not as many."""
        own = tuple(turn for turn in turns if turn.role in SAID)
        bits = random_bits(4 * self._count + 16, self._seed, self._name, "shots", number)
        first = [int(bit % np.uint64(len(self._pool))) for bit in bits] if self._pool else []
        begin = first[-1] if first else 0
        # Where the draws meet the same few again and again, the next in order are taken.
        places = dict.fromkeys((*first, *((begin + i) % len(self._pool) for i in range(len(self._pool)))))
        found = list[Shot]()
        for place in places:
            if len(found) == self._count:
                break
            shot = self._pool[place]
            if shot.number != number and shot.turns != own and all(shot.turns != other.turns for other in found):
                found.append(shot)
        if len(found) < self._count:
            raise DataError(
                Problem(
                    f"{self._name} has {len(found)} other training records, and {self._count} examples are to stand "
                    "before each dialogue",
                    ("data", "sources", self._name, "shots"),
                    f"shots: {len(found)} at most, or give it more records",
                    "the same example would stand there twice, or a record before itself",
                )
            )
        return found


class Filled:
    """Dialogues of a source with their examples; and the first of them, for a person to look at."""

    def __init__(self, source: Source, reading: SourceReading, seed: int, spoken: bool) -> None:
        """`spoken`: whether records are read as dialogues at all."""
        self._source, self._spoken = source, spoken
        self._shots = _shots(source, reading, seed) if spoken and source.shots else None
        self.noted: dict[str, Any] = {}
        """JSON-able: the first training record of a template or with examples, turn by turn: who says what, and where
        that is from."""

    def item(self, side: int, number: int, item: Shaped) -> Shaped:
        """A document with its examples."""
        if item.turns is None or not self._spoken:
            return item
        shots = self._shots.of(number, item.turns) if self._shots else []
        turns = with_shots(item.turns, shots)
        if side == TRAINS and not self.noted and (shots or self._source.template):
            of = {id(turn): shot.where for shot in shots for turn in shot.turns}
            said = [[t.role, "".join(t.content)[:SHOWN], of.get(id(t), item.document.where)] for t in turns]
            self.noted = {"filled": {"template": self._source.template or "", "shots": len(shots), "turns": said}}
        return item._replace(turns=turns)


def with_shots(turns: Sequence[Turn], shots: Sequence[Shot]) -> list[Turn]:
    """A dialogue with its examples: what the system says, the examples, then the dialogue itself."""
    apart = next((i for i, turn in enumerate(turns) if turn.role in SAID), len(turns))
    return [*turns[:apart], *(turn for shot in shots for turn in shot.turns), *turns[apart:]]


def _shots(source: Source, reading: SourceReading, seed: int) -> Shots:
    survey = reading.survey
    on = np.flatnonzero(survey.on(TRAINS) & survey.speaks & ~reading.contaminated["dialogue"])
    chosen = set(on[shuffled(len(on), seed, reading.name, "examples")[:POOL]].tolist())
    pool = [
        Shot(number, item.document.where, tuple(turn for turn in item.turns if turn.role in SAID))
        for side, number, item in reading.walk()
        if side == TRAINS and number in chosen and item.turns is not None
        # What asks alone is no example.
        if any(turn.role == "assistant" for turn in item.turns)
    ]
    return Shots(reading.name, source.shots, pool, seed)


def unshown(name: str, phase: Phase, sources: Mapping[str, Source]) -> Iterator[Problem]:
    """The problems of a phase of pairs, on sources with examples before their dialogues."""
    for source, share in phase.mixture.items() if phase.pairs else ():
        if share.percent > 0 and sources[source].shots:
            yield Problem(
                f"{name} reads pairs of one question and its answer, and {source} has {sources[source].shots} examples "
                "before each dialogue",
                ("phases", name, "mixture", source),
                f"leave out `shots:` at data.sources.{source}, or train on it with `kind: sft`",
                "the examples would stand nowhere",
            )
