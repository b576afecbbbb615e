"""What tasks have in common that compare how probable answers are with what a reference holds of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llmspec.compiler.plan import PhasePlan
from llmspec.core.metrics import Metric
from llmspec.core.problems import LlmspecError
from llmspec.data.inputs import VALIDATION, Arrays
from llmspec.data.layout import Batch
from llmspec.data.rotated import texts_of
from llmspec.model.others import Weights
from llmspec.parts.objectives.answers import LOGPS, REFERENCE_LOGPS, SIDES, AnswerObjective
from llmspec.parts.phases.answers import REFERENCE
from llmspec.training.context import RunContext
from llmspec.training.prompts import Prompt, longest
from llmspec.training.reference import Holds, Table, of_other, of_policy
from llmspec.training.tasks.base import Sample, Shapes, Validation
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import StepTaken, Trainer

HELD_OUT = "validation of "
SHOWN = 2
"""Pairs, or judged answers, that samples show."""


class Answers(Supervised):
    """Rows of prompts with their answers; what a reference holds of each is known before the first step, and kept in
    every checkpoint."""

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        assert isinstance(self.phase.objective, AnswerObjective)
        self.objective: AnswerObjective = self.phase.objective
        self._held_out = {s: v for s, v in context.prepared.validation(phase.name).items() if len(v)}
        layouts = {s: self.stream.layout(s) for s in self.stream.sources}
        layouts |= {HELD_OUT + s: v.layout for s, v in self._held_out.items()}
        sides = SIDES if self.objective.in_pairs else 1
        self._table = Table({s: len(layout.kept) for s, layout in layouts.items()}, sides)  # type: ignore[attr-defined]
        self._known = not self.objective.compares
        self._shows = self._held_out_texts()
        if not self.phase.prompts and phase.draws:
            self._prompts = self._first_prompts()

    def _held_out_texts(self) -> tuple[tuple[str, ...], Batch, str]:
        """(names of its rows' sources, a batch that is validated with, or else trained on, where it was taken from)."""
        for source, held_out in self._held_out.items():
            return (HELD_OUT + source,), held_out.batch(0), f"validation text of {source}"
        batch, names = self.stream.batch(0), self.stream.sources
        return names, batch, f"training text of {names[int(batch.source[0])]}"

    def _first_prompts(self) -> tuple[Prompt, ...]:
        """Those of the batch that samples show, each once."""
        decode, found = self.context.prepared.codec.decode, dict[tuple[int, ...], Prompt]()
        _, batch, origin = self._shows
        assert batch.labels is not None
        for text in texts_of(batch):
            wanted = 0 if self.objective.in_pairs else 1
            good = int(batch.labels.targets[text.row, text.nth]) == wanted
            if text.answer and len(text.prompt) <= longest(self.context.plan):
                of = Prompt(decode(text.prompt), text.prompt, True, origin, decode(text.answer) if good else "")
                found.setdefault(tuple(text.prompt), of)
        return tuple(found.values())[: self.phase.texts_drawn]

    # -- the reference -------------------------------------------------------------------------------------------
    def begin(self, trainer: Trainer, others: Weights) -> bool:
        """Asks the reference of every answer that is trained on or validated with."""
        if self._known:
            return False
        holds = self._reference(trainer, others)
        said, count = f"{self.plan.name}: log-probabilities of answers by the reference", self.asked()
        self.context.watcher.progress(said, 0, count)
        for done, _ in enumerate(self._ask(holds), 1):
            self.context.watcher.progress(said, done, count)
        self._table.close()
        self._known = True
        return True

    def asked(self) -> int:
        """Passes in which the reference is asked of everything."""
        return sum(map(self.stream.passes_over, self.stream.sources)) + sum(map(len, self._held_out.values()))

    def _ask(self, holds: Holds) -> Iterator[None]:
        """Asks the reference of everything, pass by pass."""
        for names, batch in self._everything():
            self._table.write(batch, names, holds(batch))
            yield

    def _everything(self) -> Iterator[tuple[tuple[str, ...], Batch]]:
        """(names of the sources of its rows, a batch), of all that is trained on and validated with."""
        for source in self.stream.sources:
            for batch in self.stream.every(source):
                yield self.stream.sources, batch
        for source, held_out in self._held_out.items():
            for batch in held_out:
                yield (HELD_OUT + source,), batch

    def _reference(self, trainer: Trainer, others: Weights) -> Holds:
        if REFERENCE in self.plan.others:
            return of_other(self.context, self.plan, REFERENCE, others[REFERENCE])
        if self.plan.continued is not None:
            self.context.watcher.notice(
                f"{self.plan.name}: its reference is the model of the step that it goes on from; `reference:` names "
                "another one"
            )
        return of_policy(trainer, self._arrays)

    def tensors(self) -> dict[str, Any]:
        if not self.objective.compares:
            return {}
        return {f"{REFERENCE_LOGPS}/{source}": table for source, table in self._table.of.items()}

    def tensor_shapes(self) -> Shapes:
        return {name: tuple(array.shape) for name, array in self.tensors().items()}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        super().restore(state, tensors, step)
        if not self.objective.compares:
            return
        for source in self._table.of:
            self._table.of[source] = np.array(tensors[f"{REFERENCE_LOGPS}/{source}"], np.float32)
        self._known = True

    # -- steps ---------------------------------------------------------------------------------------------------
    def batches(self, step: int) -> list[Arrays]:
        found = super().batches(step)
        return [self.compared(a, b, self.stream.sources) for a, b in zip(found, self._read, strict=True)]

    def compared(self, arrays: Arrays, batch: Batch, sources: tuple[str, ...]) -> Arrays:
        """The inputs of a batch with what the reference holds of it."""
        return {**arrays, REFERENCE_LOGPS: self._table.read(batch, sources)} if self.objective.compares else arrays

    def metrics(self, taken: StepTaken) -> tuple[Metric, ...]:
        """Means over the step, by TRL's names."""
        return self.objective.metrics({**taken.sums, "loss_weights": 1.0}, 0)

    # -- validation ----------------------------------------------------------------------------------------------
    def validate(self, trainer: Trainer) -> Validation:
        """Every held-out answer once."""
        found, read = list[Metric](), 0
        for source, held_out in self._held_out.items():
            sums = dict.fromkeys((*trainer.steps.sums, "loss_weights"), 0.0)
            for i, batch in enumerate(held_out):
                arrays = self.held_out_arrays(trainer, source, i, batch)
                of_batch = {**trainer.evaluate(arrays), "loss_weights": float(arrays["loss_weights"].sum())}
                sums = {name: total + of_batch[name] for name, total in sums.items()}
            metrics = self.objective.metrics(sums, held_out.characters)
            found += [metric.of(source) for metric in metrics]
            read += held_out.read
        return Validation(tuple(found), read)

    def held_out_arrays(self, trainer: Trainer, source: str, i: int, batch: Batch) -> Arrays:
        """The inputs of batch `i` that a source is validated with."""
        return self.compared(self._arrays(batch, VALIDATION, source, i), batch, (HELD_OUT + source,))

    # -- samples -------------------------------------------------------------------------------------------------
    @property
    def samples_drawn(self) -> int:
        return len(self._prompts) + 1

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        """How much more probable some held-out answers are than by the reference, and answers to prompts."""
        try:
            yield from list(self._shown(trainer))
        except Exception as e:
            why = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
            yield Sample("", "", "error", "", why)
        yield from super().samples(trainer)

    def _shown(self, trainer: Trainer) -> Iterator[Sample]:
        names, batch, origin = self._shows
        arrays = self.compared(self._arrays(batch, "samples"), batch, names)
        ratios = trainer.evaluate(arrays)[LOGPS] - arrays.get(REFERENCE_LOGPS, 0.0)
        assert batch.labels is not None
        decode, of = self.context.prepared.codec.decode, "log-ratio" if self.objective.compares else "log-probability"
        texts = texts_of(batch)
        for i in range(0, len(texts), SIDES if self.objective.in_pairs else 1)[:SHOWN]:
            said = []
            for text in texts[i : i + SIDES] if self.objective.in_pairs else texts[i : i + 1]:
                target = int(batch.labels.targets[text.row, text.nth])
                name = ("chosen", "rejected")[target] if self.objective.in_pairs else ("bad", "good")[target]
                said.append(f"{name}: {decode(text.answer).strip()} ({of} {ratios[text.row, text.nth]:+.2f} nats)")
            yield Sample(decode(texts[i].prompt), " | ".join(said), "compared", origin)
