"""What tasks have in common that ask something of whole texts: validation over all of them at once, and texts shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from llmspec.compiler.plan import PhasePlan
from llmspec.core.metrics import Metric
from llmspec.core.problems import LlmspecError
from llmspec.data.inputs import VALIDATION
from llmspec.data.layout import Batch
from llmspec.data.validation import ValidationSet
from llmspec.decoding.reading import Reader
from llmspec.training.context import RunContext
from llmspec.training.tasks.base import Sample, Validation
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer


class Text(NamedTuple):
    """A text of a batch."""

    tokens: list[int]
    """Special tokens around it included."""
    target: Any
    """What is asked of it, as `Labels` has it."""
    record: int = -1
    """Of answers that are compared: which of them are of one record."""
    supervised: int = 0
    """Its tokens that count as targets."""
    begins: int = 0
    """The first of them."""


def texts_in(batch: Batch) -> Iterator[Text]:
    """The texts of a batch, row by row."""
    assert batch.labels is not None
    for row in range(len(batch.tokens)):
        filled = int(batch.filled[row])
        numbers = batch.documents[row, :filled]
        for number in range(int(numbers[-1]) + 1 if filled else 0):
            here, records = numbers == number, batch.labels.records
            yield Text(
                batch.tokens[row, :filled][here].tolist(),
                batch.labels.targets[row, number],
                -1 if records is None else int(records[row, number]),
                int(np.count_nonzero(learned := batch.weights[row, :filled][here])),
                int(np.argmax(learned != 0)) + 1,
            )


class Documents(Supervised):
    """Rows of whole texts, of each of which something is asked."""

    gathered: str
    """What of the objective's `gathered` the scores are made of."""

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        self._reader: Reader | None = None

    def scores(self, outputs: np.ndarray, texts: list[Text]) -> tuple[Metric, ...]:
        """What is told of all outputs (n, …) of a source's texts together."""
        raise NotImplementedError

    def shown(self, trainer: Trainer) -> Iterator[Sample]:
        """What the model says now of the texts that samples show."""
        raise NotImplementedError

    def validate(self, trainer: Trainer) -> Validation:
        """Every validation text of the mixture's sources once: the loss, and what is told of all of them."""
        found, read = list[Metric](), 0
        for source, held_out in self.context.prepared.validation(self.plan.name).items():
            if not len(held_out):
                continue
            sums, outputs, texts = self._gather(trainer, source, held_out)
            metrics = (*self.phase.objective.metrics(sums, held_out.characters), *self.scores(outputs, texts))
            found += [metric.of(source) for metric in metrics]
            read += held_out.read
        return Validation(tuple(found), read)

    def _gather(
        self, trainer: Trainer, source: str, held_out: ValidationSet
    ) -> tuple[dict[str, float], np.ndarray, list[Text]]:
        """(sums over all batches, outputs of every text in order, the texts)."""
        sums, outputs, texts = dict.fromkeys((*trainer.steps.sums, "loss_weights"), 0.0), [], list[Text]()
        for i, batch in enumerate(held_out):
            arrays = self._arrays(batch, VALIDATION, source, i)
            of_batch = {**trainer.evaluate(arrays), "loss_weights": float(arrays["loss_weights"].sum())}
            sums = {name: total + of_batch[name] for name, total in sums.items()}
            outputs.append(of_batch[self.gathered][held_out.counts(batch).reshape(-1)])
            texts += texts_in(batch)
        return sums, np.concatenate(outputs), texts

    def first_batches(self, most: int) -> tuple[list[Batch], str]:
        """(up to `most` batches that are validated with, or else one that is trained on; where they were taken
        from)."""
        held_out = [(s, v) for s, v in self.context.prepared.validation(self.plan.name).items() if len(v)]
        if held_out:
            source, found = held_out[0]
            return [found.batch(i) for i in range(min(most, len(found)))], f"validation text of {source}"
        batch = self.stream.batch(0)
        return [batch], f"training text of {self.stream.sources[int(batch.source[0])]}"

    def reader(self, trainer: Trainer) -> Reader:
        """What reads texts by the weights as they are now."""
        if self._reader is None:
            head, codec = self.phase.objective.head, self.context.prepared.codec
            self._reader = Reader(self.plan.model, head, self.context.backend, trainer.weights, codec, trainer.layouts)
        return self._reader

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        """What the model says of its texts; one sample with the error where it fails."""
        try:
            yield from list(self.shown(trainer))
        except Exception as e:
            self._reader = None  # nobody knows where it stopped
            why = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
            yield Sample("", "", "error", "", why)
