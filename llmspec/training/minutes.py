"""Budgets in minutes: how many steps they are on this machine, and what is done where these take longer after all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import floor

from llmspec.compiler.budget import tokens_of
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import RunError
from llmspec.core.units import Budget, duration
from llmspec.forecast import estimates
from llmspec.parts.phases.batches import SLACK as ROUNDING
from llmspec.runs.run import RunFolder
from llmspec.training.phase_stats import PhaseStats

ROUNDS = 4
"""Of solving for the steps: what stands beside them, such as validation, hardly hangs on their number."""
SLACK = 0.02
"""Share of the budget by which a phase may seem to be late before its steps are cut."""


def resolved(
    plan: Plan,
    folder: RunFolder | None = None,
    notice: Callable[[str], object] = lambda said: None,
    measure: bool = True,
) -> Plan:
    """The plan whose budgets in minutes know their steps: those that the run in `folder` has with the same steps'
    work, or else as many as this machine is expected to take in that time. It is measured first where nothing is known
    of it, unless `measure` forbids that: what is not known then stays open. Raises ToolchainError.
    """
    waiting = [p for p in plan.phases if open_minutes(p)]
    if not waiting:
        return plan
    known = steps_there(folder) if folder is not None else {}
    phases = []
    for planned in plan.phases:
        if not open_minutes(planned):
            phases.append(planned)
            continue
        budget, key = planned.phase.budget, estimates.shape_key(planned.model, planned.phase, planned.others)
        steps = known.get((planned.name, budget.amount, key)) or estimated_steps(plan, planned, measure)
        if steps is None:
            phases.append(planned)
            continue
        if (planned.name, budget.amount, key) not in known:
            notice(f"{planned.name}: {budget} are {steps:,} steps by what is known of this machine")
        phase = planned.phase.model_copy(update={"budget": replace(budget, steps=steps)})
        phases.append(planned.model_copy(update={"phase": phase, "steps": steps}))
    return plan.model_copy(update={"phases": tuple(phases)})


def open_minutes(planned: PhasePlan) -> bool:
    """Whether a phase has a budget in minutes whose steps are not known yet."""
    return planned.phase.budget.unit == "minutes" and planned.phase.budget.steps is None


def steps_there(folder: RunFolder) -> dict[tuple[str, float, str], int]:
    """(phase, minutes, key of a step's work) -> the steps that they are in a run; nothing where there is none."""
    if not (folder.path / "plan.json").is_file():
        return {}
    try:
        earlier = folder.plan()
    except RunError:
        return {}
    return {
        (p.name, p.phase.budget.amount, estimates.shape_key(p.model, p.phase, p.others)): p.phase.budget.steps
        for p in earlier.phases
        if p.phase.budget.unit == "minutes" and p.phase.budget.steps
    }


def estimated_steps(plan: Plan, planned: PhasePlan, measure: bool) -> int | None:
    """Steps of a phase that are expected to take its minutes, validation and samples included."""
    target = 60 * planned.phase.budget.amount
    steps = 100
    for _ in range(ROUNDS):
        tokens = tokens_of(planned.model, planned.phase, steps)
        trial = plan.model_copy(update={"phases": (planned.model_copy(update={"steps": steps, "tokens": tokens}),)})
        found = estimates.expected(trial).get(planned.name)
        if found is None and measure:
            estimates.calibrate(plan.device)
            found = estimates.expected(trial).get(planned.name)
        if found is None or not found.steps:
            return None
        beside = found.total - found.steps
        steps = max(1, floor(max(target - beside, target / 10) / (found.steps / steps) + ROUNDING))
    return steps


class Clock:
    """Cuts the steps of a phase with a budget in minutes, so that its schedule ends in time."""

    def __init__(self, budget: Budget, steps: int) -> None:
        self.limit = 60 * budget.amount if budget.unit == "minutes" else None
        self.steps = steps
        """Of the phase, as far as is known now; never more than were planned."""

    def late(self, step: int, tally: PhaseStats) -> str:
        """Cuts the steps where after `step` of them they would take longer than the budget; what is said then."""
        found = tally.measured() if self.limit is not None and step < self.steps else None
        if self.limit is None or found is None:
            return ""
        spent = sum(tally.seconds.values())
        each = found.step + (spent - tally.seconds.get("steps", 0.0)) / step
        ends = spent + each * (self.steps - step)
        if ends <= self.limit * (1 + SLACK):
            return ""
        before, self.steps = self.steps, step + max(0, floor((self.limit - spent) / each + ROUNDING))
        return (
            f"{before:,} steps would take {duration(ends)}, and the budget is {duration(self.limit)}: they become "
            f"{self.steps:,}, and the schedule ends there"
        )
