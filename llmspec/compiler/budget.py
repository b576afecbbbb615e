"""How long a phase is, in whichever unit the spec says it: tokens, steps, epochs of a source, FLOPs or minutes.

All units meet in optimizer steps, which are whole: a budget is met by the first step that reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from llmspec.compiler.cost import phase_cost, step_cost
from llmspec.compiler.plan import ModelPlan, PhasePlan
from llmspec.core.units import Budget
from llmspec.parts.phases import Phase
from llmspec.parts.phases.batches import SLACK, fewest

CURVE_POINTS = 120
"""Points of a learning-rate curve, at most: a phase may have millions of steps."""
COMPUTE_OPTIMAL = 20.0
"""Training tokens per parameter at which a given compute is spent best (Hoffmann et al. 2022, arXiv:2203.15556)."""


@dataclass(frozen=True)
class Length:
    """One length in every unit; blocks are taken as full."""

    steps: int
    tokens: int
    flops: float
    """Of matrix products."""
    epochs: dict[str, float]
    """Readings of each source whose size is known."""

    def budget(self, unit: str, source: str | None = None) -> Budget:
        """This length as a spec would ask for it."""
        amounts = {"steps": float(self.steps), "tokens": float(self.tokens), "FLOPs": self.flops}
        amount = self.epochs[source] if source is not None else amounts[unit]
        return Budget(amount, unit, source)  # type: ignore[arg-type]


def tokens_per_step(model: ModelPlan, phase: Phase) -> int:
    """Tokens that one optimizer step reads, where all of its rows are full."""
    row = phase.row_tokens(model.context, model.encoder_context)
    return phase.micro_batch_size * phase.gradient_accumulation_steps * row


def tokens_of(model: ModelPlan, phase: Phase, steps: int) -> int:
    """The same of a phase of so many steps."""
    return tokens_per_step(model, phase) // phase.batches.most * phase.batches.of(steps)


def steps_of(budget: Budget, model: ModelPlan, phase: Phase, sizes: Mapping[str, int] | None = None) -> int | None:
    """Optimizer steps of a budget; None for epochs of a source whose tokens (`sizes`) are not known, and for minutes
    on a machine that has not said how many steps these are."""
    if budget.unit == "minutes":
        return budget.steps
    if budget.unit == "steps":
        return int(budget.amount)
    if budget.unit == "FLOPs":
        if phase.batches.growing or phase.row_lengths(model.context).growing:
            return fewest(lambda steps: phase_cost(model, phase, steps).products / budget.amount, 1.0)
        return max(1, ceil(budget.amount / step_cost(model, phase).products - SLACK))
    tokens = budget.amount
    if budget.source is not None and phase.prompted:
        return None  # epochs are of prompts, whatever their lengths
    if budget.source is not None:
        share, size = phase.mixture.get(budget.source), (sizes or {}).get(budget.source)
        if size is None or share is None or not share.fraction:
            return None
        tokens = budget.amount * size / share.fraction
    return phase.batches.reaching(tokens / tokens_per_step(model, phase) * phase.batches.most)


def length(steps: int, model: ModelPlan, phase: Phase, sizes: Mapping[str, int] | None = None) -> Length:
    """A number of steps in every unit."""
    tokens = tokens_of(model, phase, steps)
    epochs = {
        name: tokens * phase.mixture[name].fraction / size
        for name, size in (sizes or {}).items()
        if name in phase.mixture and size
    }
    return Length(steps, tokens, phase_cost(model, phase, steps).products, epochs)


def readable(model: ModelPlan, phase: Phase) -> Phase:
    """The phase with a budget that can be laid out in blocks without knowing what a step costs, or takes; of one that
    answers prompts, a step is a round of them."""
    if phase.prompted:
        in_epochs = phase.budget.unit == "epochs"
        return phase.by_rollouts(None if in_epochs else steps_of(phase.budget, model, phase) or 1)
    if phase.budget.unit not in ("FLOPs", "minutes"):
        return phase
    return phase.model_copy(update={"budget": Budget(float(steps_of(phase.budget, model, phase) or 1), "steps")})


# -- learning rates ------------------------------------------------------------------------------------------------
def learning_rate(phase: Phase, step: int, steps: int) -> float:
    """What the optimizer is given at `step` (from 1) of `steps`."""
    return phase.optimizer.scalars(phase.schedule.factor(step - 1, steps), step)[0]


def learning_rates(planned: PhasePlan) -> tuple[tuple[int, float], ...]:
    """(step from 1, learning rate) at evenly spread steps, the first and the last among them."""
    steps, phase = planned.steps, planned.phase
    if not steps:
        return ()
    points = min(steps, CURVE_POINTS)
    chosen = sorted({round(i * (steps - 1) / max(1, points - 1)) for i in range(points)})
    return tuple((s + 1, learning_rate(phase, s + 1, steps)) for s in chosen)
