"""The loop of supervised phases (pretraining, SFT): batches in, checkpoints out."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmspec.backends.backend import Backend
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import LlmspecError, RunError
from llmspec.data.inputs import BatchInputs
from llmspec.data.ledger import Ledger
from llmspec.data.prepare import PreparedData
from llmspec.decoding.generate import generate
from llmspec.forecast import estimates
from llmspec.model.decoder import Decoder
from llmspec.model.device import allocated
from llmspec.model.steps import state_shapes
from llmspec.runs import checkpoint
from llmspec.runs.checkpoint import attempt
from llmspec.runs.run import PhaseFolder
from llmspec.training.callbacks import Callback, Score, Step, only_noted
from llmspec.training.phase_stats import PhaseStats
from llmspec.training.prompts import Prompt, prompts_of
from llmspec.training.stop import Stop
from llmspec.training.trainer import Trainer


@dataclass
class RunContext:
    """What every phase of a run shares."""

    plan: Plan
    prepared: PreparedData
    backend: Backend
    watcher: Callback
    stop: Stop
    restore: Callable[[], None] = lambda: None
    """Writes what stands in the run's folder beside its phases, again."""


class Supervised:
    """Trains one phase from `start` (name -> numpy array), or from the checkpoint in its folder."""

    def __init__(self, bench: RunContext, phase: PhasePlan, folder: PhaseFolder, start: dict[str, Any]) -> None:
        assert phase.steps is not None, "a phase is run with a completed plan"
        self.bench, self.plan, self.folder, self.total = bench, phase, folder, phase.steps
        self.phase = phase.phase
        self.tally = PhaseStats(folder.about.get("facts"))
        if allocated():
            gc.collect()  # models that nobody holds any more would go while this one is measured
        self.others = allocated()
        """Bytes of tensors that were there before: those of other models in this process."""
        self.stream = bench.prepared.stream(phase.name)
        model = bench.plan.model
        self.arrays = BatchInputs(model, phase.phase, bench.prepared.codec.specials, (bench.plan.seed, phase.name))
        shapes, states = {t.name: t.shape for t in model.tensors}, state_shapes(model, phase.phase)
        found, notices = attempt(folder.folder, phase.key, lambda saved: (saved.weights(shapes), saved.state(states)))
        for notice in notices:
            bench.watcher.notice(notice if found else f"{notice}: {phase.name} starts anew")
        self.step, self.ledger = 0, self.stream.ledger()
        state: dict[str, Any] | None = None
        if found:
            saved, (start, state) = found
            cursor, self.step = saved.cursor(), saved.step
            if self.stream.check_cursor(cursor.get("stream", {})) != self.step or self.step > self.total:
                raise RunError(
                    f"{saved.folder} does not belong here: its place in the data is not after step "
                    f"{self.step} of {self.total}",
                    hint="remove it, so that the one before it is used",
                )
            self.ledger = Ledger.load(cursor.get("ledger", {}))
            bench.stop.saved(phase.name, self.step)
            if odd := not_finite({**start, **(state or {})}):
                bench.watcher.notice(f"{saved.folder} holds numbers that are not finite: {odd}")
        self.trainer = Trainer(bench.plan, phase, bench.backend, lambda tensor: start[tensor.name], state)
        self.decoder: Decoder | None = None
        self.prompts = prompts_of(bench.plan, phase, bench.prepared)
        for rows in (folder.metrics, folder.timing, folder.samples):
            if lines := rows.cut(self.step):
                bench.watcher.notice(f"{rows.path}: {lines} damaged line{'s' * (lines > 1)} left out")

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
        self.bench.restore()
        self.folder.note(key=self.plan.key, done=False)
        self.write()
        return RunError(
            f"{self.folder.folder} was removed while it trained; it was written again with a checkpoint after step "
            f"{self.step}",
            hint="the same command goes on from there",
            consequence="earlier rows of metrics and samples, and the checkpoints of other phases, are lost",
        )

    def train(self) -> dict[str, Any]:
        """The loop itself."""
        self.bench.watcher.phase_starts(self.plan, self.step)
        while self.step < self.total:
            self.advance()
            last = self.step == self.total
            if self.due(self.phase.evaluate_every) or last:
                self.validate()
            if self.due(self.phase.sample_every) or last:
                with self.tally.spending("samples", len(self.prompts)):
                    self.sample()
            self.tally.holds(self.held())
            if self.due(self.phase.checkpoint_every) or last or self.bench.stop.asked:
                self.save()
            if self.bench.stop.asked and not last:  # also while it was saved
                raise self.bench.stop.interrupted()
        ledger = self.ledger.rows()
        self.folder.note(done=True, ledger=ledger, facts=self.tally.dump())
        if found := self.tally.measured():
            with only_noted(self.bench.watcher, "how long the steps took could not be kept"):
                estimates.remember(self.bench.plan, self.phase, found)
        self.bench.watcher.phase_ends(self.plan, ledger)
        return self.trainer.weight_arrays()

    def due(self, every: Any) -> bool:
        steps = every.interval(self.total)
        return steps > 0 and self.step % steps == 0

    def held(self) -> int:
        """Bytes that are allocated: tinygrad's, and the places of captured steps, which it does not count."""
        return allocated() - self.others + self.trainer.captured_bytes()

    # -- one step ------------------------------------------------------------------------------------------------
    def advance(self) -> None:
        """One optimizer step: passes, update, and its row."""
        began = time.perf_counter()
        factor = self.phase.schedule.factor(self.step, self.total)
        scalars = self.phase.optimizer.scalars(factor, self.step + 1)
        batches = [self.stream.batch(self.step, m) for m in range(self.phase.gradient_accumulation_steps)]
        read = [self.arrays(batch, self.step, micro) for micro, batch in enumerate(batches)]
        sums, norm, targets = self.trainer.step(read, scalars, self.step)
        loss = sums["loss"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self.diverged(loss, norm)
        for batch in batches:
            self.ledger.add(batch)
        self.step += 1
        self.bench.stop.unsaved = True
        row = {"step": self.step, "loss": loss, "lr": scalars[0], "norm": norm, "tokens": int(targets)}
        seconds = time.perf_counter() - began
        self.folder.metrics.append(row)
        self.folder.timing.append({"step": self.step, "seconds": seconds})
        self.tally.spent("steps", seconds)
        tokens = sum(int(b.filled.sum()) for b in batches)
        flops = (self.plan.flops or 0.0) / self.total
        self.bench.watcher.stepped(Step(self.step, self.total, loss, scalars[0], norm, tokens, seconds, flops))

    def diverged(self, loss: float, norm: float) -> RunError:
        """The error of a step that gave no numbers: what helps with these settings, and what is on disk."""
        saved, _ = self.folder.checkpoint()
        clipping = "" if self.phase.max_grad_norm is not None else " or clipping (`max_grad_norm: 1.0`)"
        kept = (
            f"the checkpoint of step {saved.step:,} is kept in {saved.folder}"
            if saved
            else f"no checkpoint of {self.plan.name} had been written yet"
        )
        what = (
            f"the loss became {loss} (gradient norm {norm})"
            if not math.isfinite(loss)
            else f"the norm of the gradient became {norm} (loss {loss:.4g})"
        )
        return RunError(
            f"{what} at step {self.step + 1} of {self.plan.name}",
            hint=f"a lower learning rate (`lr: {self.phase.optimizer.lr:g}` now), a longer warm-up{clipping} usually "
            "helps; a changed phase starts from step 0",
            consequence=f"every later step would be of no use; {kept}",
        )

    def say(self, what: str, how: str) -> None:
        """A notice of something that went wrong beside the training, which it does not end."""
        self.bench.watcher.notice(f"{what} after step {self.step} of {self.plan.name} {how}; training goes on")

    # -- now and then --------------------------------------------------------------------------------------------
    def validate(self) -> None:
        """Every validation token of the mixture's sources once."""
        scores, began = [], time.perf_counter()
        for source, held_out in self.bench.prepared.validation(self.plan.name).items():
            nats = tokens = 0.0
            for i, batch in enumerate(held_out):
                read = self.arrays(batch, "validation", source, i)
                nats += self.trainer.evaluate(read)["loss"]
                tokens += float(read["loss_weights"].sum())
            if math.isfinite(nats):
                scores.append(Score(source, nats, int(tokens), held_out.characters))
            else:
                self.say(f"the validation loss of {source}", f"is {nats}, and is left out of the metrics")
        self.tally.spent("validation", time.perf_counter() - began, sum(s.tokens for s in scores))
        if scores:
            self.folder.metrics.append(
                {
                    "step": self.step,
                    "validation": {
                        s.source: {"nats": s.nats, "tokens": s.tokens, "characters": s.characters} for s in scores
                    },
                }
            )
            self.bench.watcher.validated(self.step, scores)

    def sample(self) -> None:
        """Text as the model writes it now; chat phases answer their prompts. One that fails is said, and no more."""
        for prompt in self.prompts:
            row: dict[str, Any] = {"step": self.step, "prompt": prompt.text}
            row |= {"from": prompt.origin} if prompt.origin else {}
            try:
                text, reason = self.answer(prompt)
            except Exception as e:
                self.decoder = None  # nobody knows where it stopped
                why = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
                self.folder.samples.append({**row, "text": "", "finish_reason": "error", "error": why})
                self.say("a sample", f"could not be drawn ({why})")
                continue
            self.folder.samples.append({**row, "text": text, "finish_reason": reason})
            self.bench.watcher.sampled(self.step, prompt.text, text)

    def answer(self, prompt: Prompt) -> tuple[str, str]:
        """(what the model says to a prompt, why it ends there)."""
        plan, codec = self.bench.plan, self.bench.prepared.codec
        if self.decoder is None:
            self.decoder = Decoder(plan.model, self.bench.backend, self.trainer.weights)
        said = generate(self.decoder, codec, [prompt.tokens], plan.decoding, seed=plan.seed, chat=prompt.chat)[0]
        return said.text, said.finish_reason

    def save(self) -> None:
        """A checkpoint from which the phase goes on bit for bit, and what it took so far."""
        if not self.folder.folder.is_dir():
            raise RunError(f"{self.folder.folder} is not there any more")
        with self.tally.spending("checkpoints"):
            self.write()
        self.folder.note(facts=self.tally.dump())

    def write(self) -> None:
        """The checkpoint itself."""
        arrays = [self.trainer.weight_arrays(), self.trainer.state_arrays()]
        cursor = {"stream": self.stream.cursor(self.step), "ledger": self.ledger.dump(), "key": self.plan.key}
        folder = checkpoint.save(self.folder.folder, self.step, arrays[0], arrays[1], cursor)
        self.bench.stop.saved(self.plan.name, self.step)
        self.bench.watcher.saved(self.step, folder)


def not_finite(arrays: Mapping[str, Any]) -> str:
    """How many numbers are NaN or infinite and where the first are; '' for none."""
    import numpy as np

    counts = {name: int(np.count_nonzero(~np.isfinite(a))) for name, a in arrays.items()}
    first = next((name for name, n in counts.items() if n), "")
    return f"{sum(counts.values()):,}, {first} first" if first else ""
