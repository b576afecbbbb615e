"""Where a phase stands beside its steps: which of its validations were best, and whether it ends before its budget.

All of it lies in every checkpoint, so that a phase that was stopped chooses and ends as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmspec.compiler.plan import Plan
from llmspec.core.metrics import Metric
from llmspec.core.problems import Problem, RunError, SpecError
from llmspec.parts.phases import Phase
from llmspec.parts.phases.course import Judged
from llmspec.runs.best import Best, best_of
from llmspec.training.minutes import Clock
from llmspec.training.spikes import Spikes

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData


class Course:
    """Judges validations. `waited` validations in a row have not improved on `top` by more than `min_delta`."""

    def __init__(self, phase: Phase, steps: int = 0) -> None:
        self.phase, self.judged, self.clock = phase, phase.judged, Clock(phase.budget, steps)
        self.spikes = Spikes(phase.on_spike)
        self.best: tuple[Best, ...] = ()
        """The best validations so far, the best first: their checkpoints are kept."""
        self.top: float | None = None
        self.waited = 0

    @property
    def over(self) -> bool:
        """Whether the phase ends here."""
        return self.phase.early_stopping is not None and self.waited >= self.phase.early_stopping.patience

    def why(self) -> str:
        """Why it is over, in words."""
        if not self.over:
            return f"its {self.phase.budget.amount:g} minutes are used up"
        stopping = self.phase.early_stopping
        assert stopping is not None
        of = f" of {stopping.source}" if stopping.source else ""
        gain = f" by more than {stopping.min_delta:g}" if stopping.min_delta else ""
        waited = "one validation" if stopping.patience == 1 else f"{stopping.patience} validations"
        return f"the validation {stopping.metric}{of} has not improved{gain} for {waited}"

    def validated(self, step: int, metrics: Sequence[Metric], wrong: Sequence[str] = ()) -> bool:
        """Takes note of a validation; whether its checkpoint has to be kept. Sources in `wrong` gave no number.

        Raises RunError where it has no metric of the name that is asked for."""
        stopping = self.phase.early_stopping
        if stopping is not None:
            found = value_of(metrics, Judged(stopping.metric, stopping.source), wrong)
            if found is not None and (self.top is None or gain(found, self.top) > stopping.min_delta):
                self.top, self.waited = found.value, 0
            else:
                self.waited += 1
        if self.judged is None or (found := value_of(metrics, self.judged, wrong)) is None:
            return False
        sign = -1 if found.better == "higher" else 1
        own = Best(step, found.value, self.judged.metric, self.judged.source or "")
        self.best = tuple(sorted((*self.best, own), key=lambda b: (sign * b.value, b.step))[: self.phase.kept_best])
        return own in self.best

    def notes(self) -> dict[str, Any]:
        """Which checkpoint the phase leaves, in words; how many steps were skipped."""
        best = {"best": f"the weights of step {self.best[0].step:,}, the best by {self.best[0]}"} if self.best else {}
        return best | ({"skipped": self.spikes.skipped} if self.spikes.asked else {})

    def dump(self) -> dict[str, Any]:
        """JSON-able form; empty where nothing of it is asked for."""
        clock = self.spikes.dump() | ({} if self.clock.limit is None else {"steps": self.clock.steps})
        if self.judged is None:
            return clock
        return {"best": [b._asdict() for b in self.best], "top": self.top, "waited": self.waited, **clock}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `dump` gave. Raises RunError where it is damaged."""
        self.spikes.restore(saved)
        if self.clock.limit is not None:
            steps = saved.get("steps")
            if not isinstance(steps, int) or not 0 < steps <= self.clock.steps:
                raise RunError("what it says of the length of the phase is damaged", hint="remove it")
            self.clock.steps = steps
        if self.judged is None:
            return
        top, waited = saved.get("top"), saved.get("waited", 0)
        if not isinstance(waited, int) or not isinstance(top, float | None):
            raise RunError("what it says of earlier validations is damaged", hint="remove it")
        self.best, self.top, self.waited = best_of(saved), top, waited


def check_course(plan: Plan, prepared: PreparedData) -> None:
    """Raises SpecError where validation is to choose, and a source that it needs has no validation text after all."""
    problems = []
    for planned in plan.phases:
        if (judged := planned.phase.judged) is None:
            continue
        held_out = {name: len(found) for name, found in prepared.validation(planned.name).items()}
        if not (held_out.get(judged.source, 0) if judged.source else sum(held_out.values())):
            problems.append(
                Problem(
                    f"validation chooses the checkpoint of {planned.name} that is best, and "
                    f"{judged.source or 'none of its sources'} has no text for it",
                    ("phases", planned.name, "early_stopping" if planned.phase.early_stopping else "keep"),
                    "a larger share for validation, or more text",
                    "nothing would be measured",
                )
            )
    if problems:
        raise SpecError(problems)


def gain(now: Metric, before: float) -> float:
    """How much better a metric has become."""
    return now.value - before if now.better == "higher" else before - now.value


def value_of(metrics: Sequence[Metric], judged: Judged, wrong: Sequence[str] = ()) -> Metric | None:
    """The metric that judges, of its source or as the mean over all of them; None where one of these gave no number.

    Raises RunError where there is none of that name."""
    first: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name == judged.metric and judged.source in (None, metric.source):
            first.setdefault(metric.source, metric)
    if any(judged.source in (None, source) for source in wrong):
        return None
    if not first:
        names = ", ".join(dict.fromkeys(m.name for m in metrics if m.better)) or "nothing"
        raise RunError(
            f"validation gave no `{judged.metric}`" + (f" of {judged.source}" if judged.source else ""),
            hint=f"it gave {names}",
            consequence="no checkpoint would be better than another",
        )
    some = next(iter(first.values()))
    return Metric(some.name, sum(m.value for m in first.values()) / len(first), some.unit, "", some.better)
