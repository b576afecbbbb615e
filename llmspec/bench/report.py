"""What a benchmark found: a frozen value, printed elsewhere."""

from __future__ import annotations

from statistics import median
from typing import Literal

from llmspec.bench.task import BenchError, Result, Work
from llmspec.core.problems import Problem
from llmspec.forecast.report import Machine
from llmspec.parts.base import Frozen

Unit = Literal["s", "tokens/s", "share", "bytes"]
AGREEMENT = 1e-4
"""Largest relative difference of what both sides compute first."""
ROUNDED = 0.1
"""The same where both round what they multiply, each in its own way."""


class Row(Frozen):
    """One figure on both sides. `ratio` is llmspec's over the peer's: of seconds and bytes less is better."""

    work: Work
    figure: str
    unit: Unit
    ours: float
    """Median over the rounds of each round's median."""
    rounds: tuple[float, ...]
    """Of each round, our side."""
    peer: float | None = None
    peer_rounds: tuple[float, ...] = ()
    ratio: float | None = None
    low: float | None = None
    """Smallest ratio of a round."""
    high: float | None = None


class WorkReport(Frozen):
    """One piece of work."""

    work: Work
    what: str
    """What was measured, in words."""
    flops: float | None
    """FLOPs of a training step, matrix products only; None for decoding."""
    side: str
    """Our side and its backend."""
    peer: str | None
    """The peer and its version."""
    rows: tuple[Row, ...]


class BenchReport(Frozen):
    """Everything that was measured."""

    name: str
    device: str
    parameters: int
    rounds: int
    machine: Machine | None
    works: tuple[WorkReport, ...]

    def row(self, work: Work, figure: str, peer: str = "") -> Row:
        """The row of this name, beside this peer where there are several; raises KeyError where it was not measured."""
        for report in self.works:
            for row in report.rows:
                if (row.work, row.figure) == (work, figure) and peer in ("", *(report.peer or "").split()[:1]):
                    return row
        raise KeyError(f"{work} {figure} {peer}".strip())


def row(work: Work, figure: str, unit: Unit, ours: tuple[float, ...], theirs: tuple[float, ...]) -> Row:
    """A row of the rounds' figures; `theirs` is empty where there is no peer."""
    made = Row(work=work, figure=figure, unit=unit, ours=median(ours), rounds=ours)
    if not theirs:
        return made
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return made.model_copy(
        update={
            "peer": median(theirs),
            "peer_rounds": theirs,
            "low": min(ratios),
            "high": max(ratios),
            "ratio": median(ours) / median(theirs),
        }
    )


def agree(ours: Result, theirs: Result, agreement: float = AGREEMENT) -> None:
    """Raises BenchError where the two sides did not compute the same."""
    difference = sum((a - b) ** 2 for a, b in zip(ours.check, theirs.check, strict=True)) ** 0.5
    scale = sum(b * b for b in theirs.check) ** 0.5
    if not difference <= agreement * scale:  # so that NaN is no agreement
        shown = [
            f"{name}: {', '.join(f'{x:.6g}' for x in r.check[:3])}{' …' * (len(r.check) > 3)}"
            for name, r in ((ours.name, ours), (theirs.name, theirs))
        ]
        raise BenchError(
            Problem(
                f"the two sides do not compute the same ({'; '.join(shown)})",
                hint=f"report this: with the same weights and tokens they should agree to {agreement:g}",
                consequence="a ratio of times would compare two different computations",
            )
        )
