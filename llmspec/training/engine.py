"""The loop of every phase: steps, and now and then validation, samples and checkpoints; it resumes bit for bit.

What is trained on, what a model is validated with and what it shows is the task's (llmspec/training/tasks).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from llmspec.compiler.plan import PhasePlan
from llmspec.core.metrics import Metric
from llmspec.core.problems import Problem, RunError
from llmspec.decoding.sampler import NotFinite
from llmspec.forecast import estimates
from llmspec.model.device import allocated
from llmspec.model.others import Weights
from llmspec.model.steps import state_shapes
from llmspec.runs import checkpoint
from llmspec.runs.checkpoint import Checkpoint, attempt
from llmspec.runs.run import PhaseFolder
from llmspec.training.artifacts import final_weights
from llmspec.training.callbacks import Step, only_noted
from llmspec.training.context import RunContext
from llmspec.training.continuing import Begun
from llmspec.training.course import Course
from llmspec.training.phase_stats import PhaseStats
from llmspec.training.rollouts import Refused
from llmspec.training.tasks import TASKS
from llmspec.training.trainer import StepTaken, Trainer

AT_RISK, SAVING = 300.0, 50.0
"""Seconds of training that a crash takes away at most, whatever `checkpoint_every` says; and as many times as long as
the last checkpoint took to write, so that writing them is a small share of the time."""


class Engine:
    """Trains one phase from `start` (name -> numpy array), or from the checkpoint in its folder; `others` are the
    weights of the models that stand beside it, by role."""

    def __init__(
        self,
        context: RunContext,
        phase: PhasePlan,
        folder: PhaseFolder,
        start: dict[str, Any],
        others: Weights = MappingProxyType({}),
        begun: Begun | None = None,
    ) -> None:
        """`begun` is what a phase begins with that goes on from other settings, and has no checkpoint of its own."""
        assert phase.steps is not None, "a phase is run with a completed plan"
        self.context, self.plan, self.folder, self.planned = context, phase, folder, phase.steps
        self.phase, self.step, self.noted, self.suspect = phase.phase, 0, False, folder.about.get("diverged")
        self.saved_at, self.saving = time.monotonic(), 0.0
        self.tally = PhaseStats(folder.about.get("facts"))
        if allocated():
            gc.collect()  # models that nobody holds any more would go while this one is measured
        self.others = allocated()
        """Bytes of tensors that were there before: those of other models in this process."""
        self.task, self.course = TASKS[phase.phase.kind](context, phase), Course(phase.phase, phase.steps)
        state = None
        went_on = phase.continued
        self.first, self.updates = (went_on.first, went_on.updates) if went_on else (0, 0)
        self.unsaved = begun is not None
        if found := self._found():
            start, state, self.unsaved = {**start, **found[0]}, found[1], False
        elif begun is not None:
            start, state, self.step = {**start, **begun.weights}, begun.state, self.first
        self.trainer = Trainer(context.plan, phase, context.backend, lambda tensor: start[tensor.name], state, others)
        self.trainer.refuses = self.course.spikes.why
        began = time.perf_counter()
        if self.task.begin(self.trainer, others):
            self.tally.spent("reference", time.perf_counter() - began)
        for rows in (folder.metrics, folder.timing, folder.samples):
            if lines := rows.cut(self.step):
                context.watcher.notice(f"{rows.path}: {lines} damaged line{'s' * (lines > 1)} left out")

    def _found(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(weights, optimizer state) of the newest sound checkpoint, where the task goes on; None where there is none.

        Raises RunError where one is whole and of something else."""
        model, watcher = self.plan.model, self.context.watcher
        weights = {t.name: t.shape for t in model.stored}
        shapes = (weights, state_shapes(model, self.phase), self.task.tensor_shapes())

        def read(saved: Checkpoint) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
            return saved.weights(shapes[0]), saved.state(shapes[1]), saved.task(shapes[2])

        found, notices = attempt(self.folder.folder, self.plan.key, read)
        for notice in notices:
            watcher.notice(notice if found else f"{notice}: {self.plan.name} starts over")
        if found is None:
            return None
        saved, (start, state, tensors) = found
        if saved.step > self.planned:
            raise foreign(saved, f"it is of step {saved.step}, and the phase has {self.planned}")
        try:
            self.course.restore(saved.cursor().get("course", {}))
            self.task.restore(saved.cursor().get("task", {}), tensors, saved.step)
        except RunError as e:
            raise foreign(saved, e.problems[0].message, e.problems[0].hint, e.problems[0].consequence) from e
        self.step = saved.step
        self.context.stop.saved(self.plan.name, self.step)
        if odd := not_finite({**start, **state, **tensors}):
            watcher.notice(f"{saved.folder} holds values that are not finite: {odd}")
        return start, state

    def run(self) -> dict[str, Any]:
        """To the end of the phase; its weights as numpy arrays. Raises Interrupted, once saved, where asked to stop."""
        try:
            return self.train()
        except RunError as e:
            if self.folder.folder.is_dir():
                raise
            raise self.rescued() from e

    def rescued(self) -> RunError:
        """Writes the run's folder again, which somebody removed, with a checkpoint; the error that says so."""
        self.context.restore()
        self.folder.note(key=self.plan.key, done=False)
        self.write()
        return RunError(
            f"{self.folder.folder} was removed during training; it was written again with a checkpoint after step "
            f"{self.step}",
            hint="the same command resumes from there",
            consequence="earlier rows of metrics and samples, and the checkpoints of other phases, are lost",
        )

    def train(self) -> dict[str, Any]:
        """The loop itself."""
        self.context.watcher.phase_starts(self.plan, self.step)
        if self.unsaved:  # from here on it needs nothing of what it goes on from
            self.save()
        while not self.over:
            self.advance()
            if late := self.course.clock.late(self.step, self.tally):
                self.context.watcher.notice(f"{self.plan.name}: {late}")
            better = (self.due(self.phase.evaluate_every) or self.step == self.total) and self.validate()
            if self.due(self.phase.sample_every) or self.over:
                with self.tally.spending("samples", self.task.samples_drawn):
                    self.sample()
            self.tally.holds(self.held())
            if self.due(self.phase.checkpoint_every) or better or late or self.over or self.context.stop.asked:
                self.save()
            elif time.monotonic() - self.saved_at > max(AT_RISK, SAVING * self.saving):
                self.save(by_clock=True)
            if self.context.stop.asked and not self.over:  # also while it was saved
                raise self.context.stop.interrupted()
        ledger = self.task.ledger()
        self.folder.note(done=True, ledger=ledger, facts=self.tally.dump(), **self.ended())
        if found := self.tally.measured():
            with only_noted(self.context.watcher, "how long the steps took could not be kept"):
                estimates.remember(self.context.plan, self.plan, found)
        self.context.watcher.phase_ends(self.plan, ledger)
        return self.left()

    @property
    def total(self) -> int:
        """Steps of the phase; a budget in minutes may come to fewer than were planned."""
        return self.course.clock.steps

    @property
    def over(self) -> bool:
        """Whether the phase has come to its end."""
        return self.step == self.total or self.course.over

    def ended(self) -> dict[str, Any]:
        """What is noted of a phase that ends before its budget; it is said, too."""
        if self.step == self.planned:
            return {}
        why = self.course.why()
        self.context.watcher.notice(f"{self.plan.name} ends after step {self.step:,} of {self.planned:,}: {why}")
        return {"ended": {"step": self.step, "why": why}}

    def left(self) -> dict[str, Any]:
        """The weights that the phase leaves: the last, or those of its best checkpoint. Raises RunError where that is
        lost."""
        best = next(iter(self.course.best), None)
        if best is None or best.step == self.step:
            return self.trainer.weight_arrays()
        self.context.watcher.notice(f"{self.plan.name} leaves the weights of step {best.step:,}, the best by {best}")
        return final_weights(self.folder, self.plan.model)

    def due(self, every: Any) -> bool:
        steps = every.interval(self.total)
        return steps > 0 and self.step % steps == 0

    def held(self) -> int:
        """Bytes that are allocated: tinygrad's, and the places of captured steps, which it does not count."""
        return allocated() - self.others + self.trainer.captured_bytes() + self.task.captured_bytes()

    # -- one step ------------------------------------------------------------------------------------------------
    def advance(self) -> None:
        """One optimizer step, and its row."""
        began = time.perf_counter()
        factor = self.phase.schedule.factor(self.step, self.total)
        spikes = self.course.spikes
        update = self.updates + self.step + 1 - self.first - spikes.skipped
        self.task.now = now = (factor, self.step + 1, self.total, update)
        scalars = self.trainer.steps.updates.numbers(*now)
        began_in = self.origin(scalars)
        try:
            taken = self.task.train(self.trainer, self.step, scalars)
        except Refused as refused:
            self.save()
            raise self.untaken(refused) from refused
        except NotFinite:
            raise self.broken("the logits that answers are drawn from are not finite") from None
        metrics = self.task.metrics(taken)
        finite = tuple(m for m in metrics if math.isfinite(m.value))
        if not taken.skipped and not (finite == metrics and math.isfinite(taken.norm)):
            raise self.diverged(metrics, taken, began_in)
        if taken.skipped and spikes.stops():
            raise self.spiked(taken.skipped)
        read = self.task.step_taken(self.step, taken)
        self.step += 1
        self.context.stop.unsaved = True
        spikes.taken(taken.sums["loss"], bool(taken.skipped))
        row = {"step": self.step, **{m.name: m.value for m in finite}, "lr": scalars[0], "norm": taken.norm}
        row |= {"tokens": taken.targets} | ({"skipped": True} if taken.skipped else {})
        if not math.isfinite(taken.norm):
            del row["norm"]
        if not self.noted:
            self.folder.note(units={m.name: m.unit for m in metrics})
            self.noted = True
        seconds = time.perf_counter() - began
        self.folder.metrics.append(row)
        parts = self.task.spent()
        self.folder.timing.append({"step": self.step, "seconds": seconds} | ({"parts": parts} if parts else {}))
        self.tally.stepped(seconds, parts, captured=self.captures())
        flops = (self.plan.flops or 0.0) * taken.passes / self.phase.batches.of(self.planned)
        if taken.skipped:
            told = f"step {self.step:,} of {self.plan.name} is skipped: {taken.skipped}"
            self.context.watcher.notice(f"{told} ({spikes.skipped} skipped so far)")
        step = Step(self.step, self.total, finite, scalars[0], taken.norm, read, seconds, flops, spikes.skipped)
        if finite:
            self.context.watcher.stepped(step)

    def captures(self) -> bool:
        """Whether the step that was taken is told apart, since graphs were captured: the first of rows of a length, and
        all steps of this process's first rollout, whose later ones take less than those of a whole rollout do."""
        stages, step = self.phase.row_lengths(self.plan.model.context).stages(self.total), self.step - 1
        rollout, first = (n // self.phase.steps_per_rollout for n in (step, step - self.tally.steps_here))
        return rollout == first or any(begin == step for _, begin, _ in stages)

    def origin(self, scalars: Sequence[float]) -> str:
        """Where the numbers of the coming step stop being finite, where an earlier run has noted that they do."""
        if self.suspect != self.step + 1:
            return ""
        with only_noted(self.context.watcher, "where it began could not be found out"):
            return self.trainer.origin(self.task.batches(self.step), scalars, self.step)
        return ""

    def diverged(self, metrics: tuple[Metric, ...], taken: StepTaken, began_in: str) -> RunError:
        """The error of a step that gave no numbers: what helps with these settings, and what is on disk. Where it began
        shows weights of before the step, which are gone: a run that comes to it again looks first."""
        self.folder.note(diverged=self.step + 1)
        again = "" if began_in else "; the same command comes to this step again, and says in which layer it begins"
        wrong = next((m for m in metrics if not math.isfinite(m.value)), None)
        what = (
            f"the {wrong.name} became {wrong.value} (gradient norm {taken.norm})"
            if wrong
            else f"the norm of the gradient became {taken.norm} ({metrics[0].name} {metrics[0].value:.4g})"
        )
        return self.broken(what, began_in, again)

    def broken(self, what: str, began_in: str = "", again: str = "") -> RunError:
        """The error of a step that meets what is no number: what mostly helps, and what is on disk."""
        saved, _ = self.folder.checkpoint()
        clipping = "" if self.phase.max_grad_norm is not None else " or clipping (`max_grad_norm: 1.0`)"
        kept = (
            f"the checkpoint of step {saved.step:,} is kept in {saved.folder}"
            if saved
            else f"no checkpoint of {self.plan.name} had been written yet"
        )
        return RunError(
            Problem(
                f"{what} at step {self.step + 1} of {self.plan.name}" + (f"; {began_in}" if began_in else ""),
                ("phases", self.plan.name, "optimizer", "lr"),
                f"a lower learning rate (`lr: {self.phase.optimizer.lr:g}` now), a longer warm-up{clipping} usually "
                f"helps; a changed phase starts from step 0{again}",
                f"every later step would be of no use; {kept}",
            )
        )

    def untaken(self, refused: Refused) -> RunError:
        """The error of a step that cannot be taken, once what was before it is saved: each problem with its step, as
        seen from the spec."""
        kept = (
            f"the weights of after step {self.step:,} are saved in {self.folder.folder}, "
            "from where the same command goes on"
        )
        return RunError(
            replace(
                p,
                message=f"{self.plan.name} stops before step {self.step + 1:,}: {p.message}",
                path=("phases", self.plan.name, *p.path) if p.path else (),
                consequence=f"{p.consequence}; {kept}" if p.consequence else kept,
            )
            for p in refused.problems
        )

    def spiked(self, why: str) -> RunError:
        """The error of a step whose loss has risen so that the phase stops, once what was before it is saved."""
        row = self.course.spikes.row
        self.save()
        return RunError(
            f"{self.plan.name} stops before step {self.step + 1}: {why}"
            + (f"; so were those of the {row} steps before it, which were skipped" if row else ""),
            hint=f"a lower learning rate (`lr: {self.phase.optimizer.lr:g}` now) usually helps; `--continue-from last` "
            "goes on from there with other settings",
            consequence=f"the weights of after step {self.step} are saved in {self.folder.folder}; the same command "
            "comes to this step again",
        )

    def say(self, what: str, how: str) -> None:
        """A notice of something that went wrong beside the training, which it does not end."""
        self.context.watcher.notice(f"{what} after step {self.step} of {self.plan.name} {how}; training goes on")

    # -- now and then --------------------------------------------------------------------------------------------
    def validate(self) -> bool:
        """What the task measures on text kept apart; a source with a number that is none is said and left out.

        Whether a checkpoint has to be kept for being one of the best."""
        began = time.perf_counter()
        found = self.task.validate(self.trainer)
        wrong = {m.source: m for m in reversed(found.metrics) if not math.isfinite(m.value)}
        for source, metric in wrong.items():
            self.say(f"the validation {metric.name} of {source}", f"is {metric.value}, and is left out of the metrics")
        metrics = [m for m in found.metrics if m.source not in wrong]
        self.tally.spent("validation", time.perf_counter() - began, found.tokens)
        if metrics:
            tables = {"tables": dict(found.tables)} if found.tables else {}
            self.folder.metrics.append({"step": self.step, "validation": [m.dump() for m in metrics], **tables})
            self.context.watcher.validated(self.step, metrics)
        return self.course.validated(self.step, metrics, tuple(wrong))

    def sample(self) -> None:
        """What the model does with its prompts now. One that fails is said, and no more."""
        for sample in self.task.samples(self.trainer):
            row: dict[str, Any] = {"step": self.step, "prompt": sample.prompt}
            row |= {"from": sample.origin} if sample.origin else {}
            row |= {"text": sample.text, "finish_reason": sample.finish_reason}
            row |= {name: found for name in ("error", "target", "attention") if (found := getattr(sample, name))}
            self.folder.samples.append(row)
            if sample.error:
                self.say("a sample", f"could not be drawn ({sample.error})")
            else:
                self.context.watcher.sampled(self.step, sample.prompt, sample.text)

    def save(self, by_clock: bool = False) -> None:
        """A checkpoint from which the phase goes on bit for bit, and what it took so far."""
        if not self.folder.folder.is_dir():
            raise RunError(f"{self.folder.folder} is not there any more")
        began = time.monotonic()
        with self.tally.spending("checkpoints"):
            self.write(by_clock)
        self.saved_at = time.monotonic()
        self.saving = self.saved_at - began
        self.folder.note(facts=self.tally.dump(), **self.course.notes())

    def write(self, by_clock: bool = False) -> None:
        """The checkpoint itself."""
        weights, state, task = self.trainer.weight_arrays(), self.trainer.state_arrays(), self.task.tensors()
        cursor: dict[str, Any] = {"key": self.plan.key, "task": self.task.state(self.step)}
        cursor |= {"course": course} if (course := self.course.dump()) else {}
        cursor |= {checkpoint.BY_CLOCK: True} if by_clock else {}
        folder = checkpoint.save(self.folder.folder, self.step, weights, state, cursor, task, self.phase.kept_last)
        self.context.stop.saved(self.plan.name, self.step)
        self.context.watcher.saved(self.step, folder)


def foreign(saved: Checkpoint, why: str, hint: str = "", consequence: str = "") -> RunError:
    """The error of a checkpoint that is whole, and not of this phase as it is."""
    return RunError(
        f"{saved.folder} does not belong here: {why}",
        hint=hint or "remove it, so that the one before it is used",
        consequence=consequence or "the phase would resume from another point than it stopped at",
    )


def not_finite(arrays: Mapping[str, Any]) -> str:
    """How many numbers are NaN or infinite and where the first are; '' for none."""
    import numpy as np

    counts = {name: int(np.count_nonzero(~np.isfinite(a))) for name, a in arrays.items()}
    first = next((name for name, n in counts.items() if n), "")
    return f"{sum(counts.values()):,}, {first} first" if first else ""
