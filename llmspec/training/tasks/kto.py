"""Single answers, good or bad; before each step the policy is asked how probable they are behind other prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import DataError, Problem
from llmspec.data.inputs import Arrays
from llmspec.data.layout import Batch
from llmspec.data.rotated import packed, rotated, texts_of
from llmspec.parts.objectives.kto import KL
from llmspec.training.context import RunContext
from llmspec.training.reference import Holds, of_policy
from llmspec.training.tasks.answers import HELD_OUT, Answers
from llmspec.training.trainer import StepTaken, Trainer

FEWEST = 2
"""Answers of a pass on average, with which there is another prompt for each."""
REFERENCE_KL = "reference_kl"


class KTO(Answers):
    """Rows of judged answers. The KL term of a pass is the mean over its answers, each behind the prompt of the next
    one, of the log-ratio of policy and reference; the reference's part of every pass is known before the first step."""

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        passes = self.phase.batches.before(self.stream.steps, self.stream.steps)
        self._kl = {REFERENCE_KL: np.zeros(passes, np.float32)}
        self._kl |= {f"{REFERENCE_KL}/{HELD_OUT}{s}": np.zeros(len(v), np.float32) for s, v in self._held_out.items()}
        counts = [(self.stream.counts(s).blocks, self.stream.layout(s)) for s in self.stream.sources]
        of_row = [(n, len(layout.kept) / max(1.0, layout.blocks_per_epoch)) for n, layout in counts]  # type: ignore[attr-defined]
        mean = sum(n * each for n, each in of_row) / max(1, sum(n for n, _ in of_row)) * self.phase.micro_batch_size
        if mean < FEWEST:
            raise DataError(
                Problem(
                    f"a pass holds {mean:.1f} answers on average, and the KL term needs prompts of others for each",
                    ("phases", phase.name, "micro_batch_size"),
                    "a larger micro_batch_size, or a longer model.context",
                    "an answer would be compared with itself, and nothing would be learned",
                )
            )

    def _place(self, step: int, micro: int) -> int:
        return self.phase.batches.before(step, self.stream.steps) + micro

    def asked(self) -> int:
        return super().asked() + sum(map(len, self._kl.values()))

    def _ask(self, holds: Holds) -> Iterator[None]:
        yield from super()._ask(holds)
        for step in range(self.stream.steps):
            for micro in range(self.stream.passes(step)):
                self._kl[REFERENCE_KL][self._place(step, micro)] = behind_others(self.stream.batch(step, micro), holds)
                yield
        for source, held_out in self._held_out.items():
            for i, batch in enumerate(held_out):
                self._kl[f"{REFERENCE_KL}/{HELD_OUT}{source}"][i] = behind_others(batch, holds)
                yield

    def tensors(self) -> dict[str, Any]:
        return {**super().tensors(), **self._kl}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        super().restore(state, tensors, step)
        self._kl = {name: np.array(tensors[name], np.float32) for name in self._kl}

    def train(self, trainer: Trainer, step: int, scalars: Sequence[float]) -> StepTaken:
        found = [
            self._with_kl(trainer, arrays, batch, float(self._kl[REFERENCE_KL][self._place(step, micro)]))
            for micro, (arrays, batch) in enumerate(zip(self.batches(step), self._read, strict=True))
        ]
        return trainer.step(found, scalars, step)

    def held_out_arrays(self, trainer: Trainer, source: str, i: int, batch: Batch) -> Arrays:
        arrays = super().held_out_arrays(trainer, source, i, batch)
        return self._with_kl(trainer, arrays, batch, float(self._kl[f"{REFERENCE_KL}/{HELD_OUT}{source}"][i]))

    def _with_kl(self, trainer: Trainer, arrays: Arrays, batch: Batch, reference: float) -> Arrays:
        mean = float(np.float32(behind_others(batch, of_policy(trainer, self._arrays))))
        return {**arrays, KL: np.array([max(0.0, mean - reference)], np.float32)}


def behind_others(batch: Batch, holds: Holds) -> float:
    """Mean log-probability of the answers of a batch, each behind the prompt of the text that follows it."""
    found = list[float]()
    for other in packed(rotated(texts_of(batch)), batch):
        assert other.labels is not None
        found += holds(other)[other.labels.weights > 0].tolist()
    return float(np.mean(found)) if found else 0.0
