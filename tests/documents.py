"""Documents in memory, read as those of a source are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llmspec.data.reading import SourceReading
from llmspec.data.split import TRAINS, VALIDATES, Shaped
from llmspec.data.survey import survey, walk
from llmspec.parts.sources import Document, Validation
from llmspec.parts.sources.notes import Notes


def reading(items: Sequence[Shaped], side: int = TRAINS, name: str = "a") -> SourceReading:
    """All of them on one side."""
    found = survey(lambda: iter(items), None)
    return SourceReading(
        name,
        lambda: iter(items),
        found._replace(sides=np.full(len(items), side, np.uint8)),
        Notes(),
        ("plain", "dialogue") if any(item.turns for item in items) else ("plain",),
    )


def split(items: Sequence[Shaped], how: Validation) -> tuple[list[Shaped], list[Shaped]]:
    """What trains and what validates, stretch by stretch."""
    found = survey(lambda: iter(items), how)
    sides: tuple[list[Shaped], list[Shaped]] = ([], [])
    for side, _, item in walk(lambda: iter(items), found):
        sides[side].append(item)
    return sides[TRAINS], sides[VALIDATES]


def stretches(text: str, places: Sequence[int], name: str = "f") -> list[Shaped]:
    """A plain text, in stretches that end at these places."""
    edges = [0, *sorted({p for p in places if 0 < p < len(text)}), len(text)]
    parts = [text[a:b] for a, b in pairwise(edges)]
    return [Shaped(Document(name, part, more=i < len(parts) - 1), part, (part,)) for i, part in enumerate(parts)]
