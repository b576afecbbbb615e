"""Budgets and shares of tokens into whole steps and whole blocks of each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

from llmspec.core.problems import Problem
from llmspec.core.units import Budget
from llmspec.parts.phases.batches import Batches
from llmspec.parts.sources import Source

if TYPE_CHECKING:
    from llmspec.compiler.plan import Plan

# A budget of just k steps must not become k + 1 by the rounding of a division.
_SLACK = 1e-6


ONE = Batches(1)
"""A pass a step."""


class Demand(NamedTuple):
    """One source of a mixture: its share of the tokens, and how its blocks come."""

    source: str
    share: float
    blocks_per_epoch: float
    tokens_per_block: float
    max_epochs: float


class Portions(NamedTuple):
    """Length of a phase in steps, and blocks of each source; together the blocks of all steps."""

    steps: int
    blocks: tuple[int, ...]


def portions(budget: Budget, demands: Sequence[Demand], per_pass: int, batches: Batches = ONE) -> Portions:
    """Divide a phase's blocks among its sources, `per_pass` blocks a pass; the last step is filled up.

    Blocks go by largest remainder, so that every source is within one block of its share of the tokens.
    """
    weights = _weights(demands)
    steps = batches.reaching(_requested(budget, demands, per_pass, batches, whole=True) / per_pass)
    total = per_pass * batches.of(steps)
    ideal = [total * weight for weight in weights]
    blocks = [floor(x) for x in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda i: (blocks[i] - ideal[i], i))
    for i in by_remainder[: total - sum(blocks)]:
        blocks[i] += 1
    return Portions(steps, tuple(blocks))


def too_often(
    budget: Budget, demands: Sequence[Demand], per_pass: int, batches: Batches = ONE, steps_each: int = 1
) -> list[Problem]:
    """The sources that the budget would repeat more often than they allow, as asked: filling the last step is free.
    Where steps of the budget are rollouts, they are told as the `steps_each` optimizer steps of each."""
    problems = []
    total = _requested(budget, demands, per_pass, batches, whole=False)
    for demand, weight in zip(demands, _weights(demands), strict=True):
        epochs = total * weight / demand.blocks_per_epoch
        if epochs <= demand.max_epochs * (1 + _SLACK):
            continue
        fair = demand.max_epochs / epochs
        asked = _told(budget, budget.amount, steps_each)
        lower = _less(budget, demand.share, fair, len(demands) == 1, steps_each)
        one = f"one epoch has {demand.blocks_per_epoch * demand.tokens_per_block:,.0f} tokens"
        problems.append(
            Problem(
                f"the budget of {asked} reads {demand.source} {times(epochs)} times, and its max_epochs is "
                f"{demand.max_epochs:g}; {one}",
                ("mixture", demand.source),
                f"{lower}, or write `max_epochs: {ceil(epochs * 10) / 10:g}` at the source",
                "the model would memorise it",
            )
        )
    return problems


def times(epochs: float) -> str:
    """How often something is read: 0.153 -> '0.15', 1024.3 -> '1,024'."""
    return f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"


def _told(budget: Budget, amount: float, steps_each: int) -> Budget:
    """A budget as the spec has it, with another amount."""
    return Budget(amount * (steps_each if budget.unit == "steps" else 1), budget.unit, budget.source)


def _less(budget: Budget, share: float, fair: float, alone: bool, steps_each: int) -> str:
    """What makes a budget, or the share of a source that is not alone, `fair` of what it is."""
    amount = budget.amount * fair
    if budget.unit in ("tokens", "steps"):
        amount = float(floor(amount))
    lower = f"lower the budget to {_told(budget, amount, steps_each)}" if amount > 0 else "give it more text"
    return lower if alone else f"lower its share below {floor(100 * share * fair):d}%, or {lower}"


def _weights(demands: Sequence[Demand]) -> list[float]:
    """Shares of blocks that give the shares of tokens: a source whose blocks are fuller needs fewer."""
    raw = [demand.share / demand.tokens_per_block for demand in demands]
    return [x / sum(raw) for x in raw]


def _requested(budget: Budget, demands: Sequence[Demand], per_pass: int, batches: Batches, whole: bool) -> float:
    """Blocks that the budget asks for; with `whole`, an epoch's last block counts in full."""
    if budget.unit == "tokens":
        total = sum(demand.share for demand in demands)
        return budget.amount * sum(demand.share / total / demand.tokens_per_block for demand in demands)
    if budget.unit == "epochs":
        i = next(i for i, demand in enumerate(demands) if demand.source == budget.source)
        blocks = budget.amount * demands[i].blocks_per_epoch
        return (ceil(blocks - _SLACK) if whole else blocks) / _weights(demands)[i]
    if budget.unit == "FLOPs":
        raise ValueError("only the plan knows what a step computes: give its budget in steps")
    return per_pass * batches.of(int(budget.amount)) if batches.growing else budget.amount * per_pass * batches.most


def weights_of(plan: Plan, sources: Mapping[str, Source]) -> dict[str, float]:
    """Each source's share of the text that the tokenizer learns from: its mean share in the phases that start anew.

    Later phases have no say but through their new sources, so that changing them leaves the tokenizer, and with it the
    earlier phases, as they are. Such a source gets the smallest share of the others.
    """
    roots = [phase.phase.mixture for phase in plan.phases if phase.phase.from_ is None]
    roots = roots or [phase.phase.mixture for phase in plan.phases]
    shares = {
        name: sum(mixture[name].fraction for mixture in roots if name in mixture) / len(roots) for name in sources
    }
    least = min((share for share in shares.values() if share), default=1.0)
    return {name: share or least for name, share in shares.items()}
