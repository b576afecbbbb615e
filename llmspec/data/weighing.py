"""How much records count: a number of each, read from its fields, by which all that is learned of it is weighed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmspec.core.problems import Problem
from llmspec.data.fields import unfilled
from llmspec.data.shaping import Dropped, filled
from llmspec.data.split import SIDES, TRAINS
from llmspec.parts.sources import Document, Source

if TYPE_CHECKING:
    from llmspec.data.writing import FileRows
    from llmspec.parts.phases import Phase

UNWEIGHTED = "without a positive weight"
"""Reason for which a record is not trained on."""


def weight_of(source: Source, document: Document) -> float | Dropped:
    """How much a document counts: what `weight:` makes of its record, a positive number that float32 has."""
    assert source.weight is not None
    if document.record is None:
        return Dropped(UNWEIGHTED, "plain text, without fields")
    found = filled(source.weight, document.record)
    if isinstance(found, Dropped):
        return Dropped(UNWEIGHTED, found.detail)
    text = "".join(found).strip()
    if not text:
        return Dropped(UNWEIGHTED, unfilled(source.weight, document.record))
    try:
        value = float(text)
    except ValueError:
        return Dropped(UNWEIGHTED, f"`{source.weight}` is no number")
    with np.errstate(over="ignore", under="ignore"):
        kept = float(np.float32(value))
    if math.isfinite(kept) and kept > 0:
        return kept
    return Dropped(UNWEIGHTED, f"`{source.weight}` is {text}" + (", 0 in float32" if value > 0 and kept == 0 else ""))


class WeightColumn:
    """The weights of a source's training documents as they are written; of a source without any, nothing."""

    def __init__(self, source: Source, rows: FileRows | None) -> None:
        self._source, self._rows = source, rows
        self._low, self._high = math.inf, 0.0

    def of(self, document: Document) -> float | Dropped:
        """How much a document counts, or why it is left out."""
        return 1.0 if self._rows is None else weight_of(self._source, document)

    def append(self, weight: float) -> None:
        """The next document that is written."""
        if self._rows is not None:
            self._rows.append(np.array([weight], np.float32))
            self._low, self._high = min(self._low, weight), max(self._high, weight)

    def close(self) -> dict[str, Any]:
        """What is noted of them: the smallest and the largest."""
        if self._rows is None:
            return {}
        self._rows.close()
        return {"weights": [self._low, self._high]} if self._high else {}


def weight_columns(source: Source, open_: Callable[..., FileRows]) -> list[WeightColumn]:
    """How much documents count, of both sides: of training alone, and where the source says it."""
    rows = [
        open_(side, "weights", np.float32, ()) if i == TRAINS and source.weight else None
        for i, side in enumerate(SIDES)
    ]
    return [WeightColumn(source, own) for own in rows]


def unweighed(name: str, phase: Phase, sources: Mapping[str, Source]) -> Iterator[Problem]:
    """The problems of a phase that draws what counts, on sources whose records have weights."""
    if not phase.objective.drawn:
        return
    for source, share in phase.mixture.items():
        if share.percent > 0 and sources[source].weight is not None:
            yield Problem(
                f"{name} draws the places that count anew each time, and the records of {source} have weights",
                ("phases", name, "mixture", source),
                f"leave out `weight:` at data.sources.{source}, or name the same records without it in another source",
                "every place would count the same",
            )
