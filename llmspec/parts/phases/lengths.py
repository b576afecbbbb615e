"""Rows that grow over a phase (Press et al. 2021, arXiv:2012.15832, section 4: staged training; Li et al. 2022,
arXiv:2108.06084): short rows cost less attention, and early steps learn little from what stands far away.

A step reads the same tokens whatever the length: a block of the context is cut into rows, each of which is read by
itself. So budgets, batches, learning rates and targets are as without, and only what a token sees differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.core.units import Budget, Share
from llmspec.parts.base import Frozen


class SequenceLength(Frozen):
    """Rows of early steps, which are shorter than the context: their length doubles until it is that of the context.

    A step reads as many tokens as without, in more rows. Each length is a graph of its own, which is made when its
    first step comes."""

    start: int = Field(gt=0, le=1 << 24)
    """Length of the first rows, in tokens: a half, a quarter, an eighth … of the context."""
    until: Share
    """Share of the phase after which rows are as long as the context, such as `30%`; each shorter length has an equal
    part of it."""


@dataclass(frozen=True)
class RowLengths:
    """How long the rows of a phase's steps are."""

    lengths: tuple[int, ...]
    """In tokens, each twice the one before; the last is the context."""
    growing: float = 0.0
    """Share of the steps in which they are shorter than it."""

    @classmethod
    def of(cls, context: int, key: SequenceLength | None) -> RowLengths:
        """Those of a phase; where its first length does not double into the context, the nearest that does."""
        if key is None:
            return cls((context,))
        found = [context]
        while found[0] > key.start and found[0] % 2 == 0:
            found.insert(0, found[0] // 2)
        return cls(tuple(found), key.until.fraction)

    def at(self, step: int, steps: int) -> int:
        """The length of step `step` (from 0) of so many."""
        warm, shorter = round(self.growing * steps), len(self.lengths) - 1
        return self.lengths[-1] if step >= warm else self.lengths[step * shorter // warm]

    def stages(self, steps: int) -> tuple[tuple[int, int, int], ...]:
        """(length, its first step, the step after its last) of each length that some step of so many has."""
        warm, shorter = round(self.growing * steps), len(self.lengths) - 1
        if not shorter:
            return ((self.lengths[-1], 0, steps),)
        ends = [-(-(k + 1) * warm // shorter) for k in range(shorter)] + [steps]
        begins = [0, *ends[:-1]]
        return tuple(s for s in zip(self.lengths, begins, ends, strict=True) if s[1] < s[2])


def length_problems(key: SequenceLength | None, budget: Budget) -> Iterator[Problem]:
    """What is wrong with rows that grow, whatever the context."""
    if key is None:
        return
    if not 0 < key.until.percent <= 100:
        yield Problem(
            f"{key.until} of a phase is {'more than all' if key.until.percent else 'nothing'} of it",
            ("sequence_length", "until"),
            "until: 30%",
            "no row would be as long as the context" if key.until.percent else "no row would be shorter",
        )
    if budget.unit == "minutes":
        yield Problem(
            "a budget in minutes counts on steps that take equally long, and those of shorter rows take less",
            ("sequence_length",),
            "a budget in tokens or in steps",
            "the phase would end early or late",
        )


def context_problems(key: SequenceLength | None, context: int, encoder: bool) -> Iterator[Problem]:
    """What is wrong with rows that grow to this context, of a model with or without an encoder."""
    if key is None:
        return
    if encoder:
        yield Problem(
            "rows of an encoder–decoder are texts cut in two, whose halves cannot be shortened on their own",
            ("sequence_length",),
            "leave it out",
            "half of what a row holds would be lost",
        )
        return
    halves, found = [], context
    while found % 2 == 0:
        found //= 2
        halves.append(found)
    if key.start in halves:
        return
    if key.start == context:
        why, lost = "is the context itself", "no row would be shorter"
    elif key.start > context:
        why, lost = f"is more than the context of {context:,}", "no row would be shorter"
    else:
        why = f"is no half of the context of {context:,}, nor a half of its halves"
        lost = "the context could not be cut into such rows"
    near = min(halves, key=lambda n: abs(n - key.start), default=0)
    yield Problem(
        f"a first length of {key.start:,} tokens {why}",
        ("sequence_length", "start"),
        f"start: {near}" if near else "leave it out: an odd context has no half; or another model.context",
        lost,
    )
