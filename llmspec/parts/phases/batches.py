"""Passes of each step of a phase whose batch grows (Brown et al. 2020, arXiv:2005.14165, appendix B; McCandlish et al.
2018, arXiv:1812.06162: early gradients agree, and small batches are enough for them).

The first step has one pass, and each later one of the warm-up as many as a straight line to the whole number allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

from llmspec.core.problems import Problem
from llmspec.core.units import Budget, Share

SLACK = 1e-6
"""A budget of just k steps does not become k + 1 by the rounding of a division."""


@dataclass(frozen=True)
class Batches:
    """How many passes the steps of a phase have."""

    most: int
    """Passes of a step once the batch is whole."""
    growing: float = 0.0
    """Share of the steps in which it grows to that."""

    def growing_steps(self, steps: int | None) -> int | None:
        """Steps in which the batch grows; None where nobody knows how many steps there are."""
        return None if steps is None and self.growing else round(self.growing * (steps or 0))

    def at(self, step: int, steps: int) -> int:
        """Passes of step `step` (from 0) of so many."""
        warm = round(self.growing * steps)
        return self.most if step >= warm else 1 + step * (self.most - 1) // warm

    def before(self, step: int, steps: int) -> int:
        """Passes of all steps before it."""
        warm = round(self.growing * steps)
        inside = min(step, warm)
        grown = floor_sum(inside, warm, self.most - 1) if inside else 0
        return inside + grown + self.most * (step - inside)

    def of(self, steps: int) -> int:
        """Passes of a phase of so many steps."""
        return self.before(steps, steps)

    def mean(self, steps: int | None) -> float:
        """Passes of a step; of a phase whose length is not known, as if the batch were whole."""
        return self.of(steps) / steps if steps and self.growing else self.most

    def reaching(self, passes: float) -> int:
        """The fewest steps that have so many passes; at least one."""
        if not self.growing:
            return max(1, ceil(passes / self.most - SLACK))
        return fewest(lambda steps: self.of(steps) / self.most, passes / self.most)


def fewest(made: Callable[[int], float], wanted: float) -> int:
    """The fewest steps, at least one, that make what is wanted; more steps make more."""
    high = 1
    while made(high) < wanted - SLACK:
        high *= 2
    low = high // 2  # `low` steps do not, `high` do
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if made(middle) >= wanted - SLACK else (middle, high)
    return high


def floor_sum(n: int, m: int, a: int) -> int:
    """Σ floor(a·i / m) for i < n, by Euclid's algorithm: as many turns as a and m have digits."""
    total, b = 0, 0
    while True:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            return total
        n, b, m, a = top // m, top % m, a, m


def warmup_problems(share: Share, passes: int, budget: Budget) -> Iterator[Problem]:
    """What is wrong with a share of a phase in which the batch grows."""
    if not share.percent:
        return
    if passes == 1:
        yield Problem(
            "the batch grows by passes, and a step has one",
            ("batch_size_warmup",),
            "gradient_accumulation_steps: 4 with a smaller micro_batch_size; or leave it out",
            "it would change nothing",
        )
    if share.percent > 100:
        yield Problem(
            f"{share} of a phase is more than all of it",
            ("batch_size_warmup",),
            "batch_size_warmup: 10%",
            "the batch would never be whole",
        )
    if budget.unit == "minutes":
        yield Problem(
            "a budget in minutes counts on steps that take equally long, and those of a growing batch do not",
            ("batch_size_warmup",),
            "a budget in tokens or in steps",
            "the phase would end early or late",
        )
