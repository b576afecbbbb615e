"""Numbers that are the labels of documents: read, set over their spread, and what is wrong with them.

n documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmspec.core.problems import Problem
from llmspec.data.documents import Asked, Whole
from llmspec.data.labels import LabelSet, some
from llmspec.data.layout import Labels
from llmspec.data.shaping import SEVERAL, UNNUMBERED
from llmspec.data.tokens import TokenSet


def number_of(labels: Sequence[str]) -> float | None:
    """The number that the labels of a document are; None where they are none, or several."""
    if len(labels) != 1:
        return None
    try:
        found = float(labels[0])
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def spread(counts: Mapping[LabelSet, int]) -> tuple[float, float] | None:
    """(mean, standard deviation) of the numbers of documents; None where there is none, or all are equal."""
    pairs = [(x, n) for labels, n in counts.items() if (x := number_of(labels)) is not None]
    if not pairs:
        return None
    values, times = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    mean = float(np.average(values, weights=times))
    std = math.sqrt(float(np.average((values - mean) ** 2, weights=times)))
    return (mean, std) if std > 0 else None


@dataclass(frozen=True)
class NumberAsking(Whole):
    """How a phase reads documents whose numbers it learns."""

    around: tuple[tuple[int, ...], tuple[int, ...]]
    longest: int
    truncation: bool
    documents: int
    mean: float
    std: float

    def of(self, data: TokenSet) -> Asked:
        """The numbers of documents, over their spread; documents without one are left out."""
        assert data.labels is not None, "these tokens have labels"
        found = [number_of(labels) for labels in data.label_sets]
        one = np.array([len(labels) == 1 for labels in data.label_sets], bool)[data.labels]
        known = np.array([x is not None for x in found], bool)[data.labels]
        scaled = np.array([0.0 if x is None else (x - self.mean) / self.std for x in found], np.float64)
        targets = scaled.astype(np.float32)[data.labels]
        dropped = {UNNUMBERED: int((one & ~known).sum()), SEVERAL: int((~one).sum())}
        return Asked(known, targets, np.ones(len(known), np.float32), dropped)

    def blank(self, rows: int) -> Labels:
        """Of rows without a document."""
        shape = (rows, self.documents)
        return Labels(np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    def named(self, target: Any) -> str:
        """A number in its own unit."""
        return f"{float(target) * self.std + self.mean:.4g}"

    def identity(self) -> Any:
        """All of its fields."""
        return ["number", list(map(list, self.around)), self.longest, self.truncation, self.mean, self.std]


def number_problems(told: bool, counts: Mapping[LabelSet, int]) -> Iterator[Problem]:
    """Labels none of which is a number, and numbers that are all the same; below the phase's path."""
    numbers = {x for labels in counts if (x := number_of(labels)) is not None}
    if not numbers:
        yield Problem(
            f"no label of the training documents is a number: {some([', '.join(labels) for labels in counts])}",
            (),
            "`label:` of the source names a field that holds numbers; kind: classify learns labels that are words",
            "there would be nothing to learn",
        )
    elif told and len(numbers) == 1:
        yield Problem(
            f"the label of every training document is {next(iter(numbers)):g}",
            (),
            "another field as `label:`, or `mean:` and `std:` at the phase",
            "numbers without a spread teach nothing",
        )


def number_notices(phase: str, told: tuple[float, float] | None, counts: Mapping[LabelSet, int]) -> Iterator[str]:
    """What a person should know of a phase's numbers."""
    if told is not None:
        yield (
            f"{phase} has no `mean:` and `std:`; its training documents have {told[0]:.6g} and {told[1]:.6g}, by which "
            "their numbers are set over their spread"
        )
    wrong = {labels: n for labels, n in counts.items() if len(labels) == 1 and number_of(labels) is None}
    if wrong:
        yield (
            f"{phase} leaves out {sum(wrong.values()):,} training documents whose label is no number: "
            f"{some([labels[0] for labels in wrong])}"
        )
