"""What a reference holds of answers: their log-probabilities, computed once, before the first step.

B rows, T tokens, K texts of a row at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from llmspec.backends.tensors import StaticInputs, tensors_from_numpy, to_numpy
from llmspec.compiler.linear_layers import may_stay_quantised
from llmspec.compiler.plan import PhasePlan
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Batch
from llmspec.model.steps import Steps
from llmspec.model.transformer import Transformer
from llmspec.parts.objectives.answers import LOGPS, SIDES
from llmspec.training.context import RunContext
from llmspec.training.trainer import Trainer

Holds = Callable[[Batch], np.ndarray]
"""f(batch) -> (B, K) float32 log-probabilities of its answers."""


def of_policy(trainer: Trainer, inputs: BatchInputs) -> Holds:
    """What the policy holds of answers, as it is when it is asked."""
    return lambda batch: np.array(trainer.evaluate(inputs(batch, "reference"))[LOGPS], np.float32)


def of_other(context: RunContext, planned: PhasePlan, role: str, weights: Callable[[], Mapping[str, Any]]) -> Holds:
    """The same of a model that stands beside. It is in memory as long as what is returned."""
    model = planned.others[role].model
    asked = planned.phase.objective.model_copy(update={"head": model.generating_head})
    phase = planned.phase.model_copy(update={"objective": asked})
    own = planned.model_copy(update={"model": model, "phase": phase, "others": {}})
    backend, codec, arrays = context.backend, context.prepared.codec, weights()
    held, layouts = backend.hold({t.name: arrays[t.name] for t in model.tensors}, may_stay_quantised(model))
    steps, tables, feed = (
        Steps(own, backend, layouts),
        tensors_from_numpy(**Transformer(model).tables()),
        StaticInputs(),
    )
    inputs = BatchInputs(model, phase, codec.specials, (context.plan.seed, planned.name), codec)
    place = steps.evaluated.index(LOGPS)

    def logps(batch: Batch) -> np.ndarray:
        read = {**feed(**inputs(batch, "reference")), **backend.inputs}
        return np.array(to_numpy(steps.evaluate(held, tables, read)[place]), np.float32)

    return logps


class Table:
    """What is held of each answer of some sources, by the number of its record and its side."""

    def __init__(self, records: Mapping[str, int], sides: int = SIDES) -> None:
        """`records` are how many pairs (or answers, of one side each) are read of each source."""
        self.of = {source: np.full((n, sides), np.nan, np.float32) for source, n in records.items()}
        self._sides = sides

    def write(self, batch: Batch, sources: tuple[str, ...], logps: np.ndarray) -> None:
        """Keeps what is held of the answers of a batch."""
        for source, at, records, sides in self._places(batch, sources):
            self.of[source][records, sides] = logps[at]

    def close(self) -> None:
        """What was asked of no batch is read by none."""
        for table in self.of.values():
            np.nan_to_num(table, copy=False, nan=0.0)

    def read(self, batch: Batch, sources: tuple[str, ...]) -> np.ndarray:
        """(B, K) of the answers of a batch; 0 at places without one."""
        assert batch.labels is not None
        found = np.zeros(batch.labels.weights.shape, np.float32)
        for source, at, records, sides in self._places(batch, sources):
            found[at] = self.of[source][records, sides]
        return found

    def _places(
        self, batch: Batch, sources: tuple[str, ...]
    ) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]]:
        assert batch.labels is not None and batch.labels.records is not None
        records = batch.labels.records
        for number, source in enumerate(sources):
            row, nth = np.nonzero((records >= 0) & (batch.source == number)[:, None])
            yield source, (row, nth), records[row, nth], nth % self._sides


def without_adapter(trainer: Trainer) -> dict[str, Any]:
    """Tensors in place of those of the policy's adapter, with which it is the model that it started from."""
    adapter = trainer.phase.model.adapter
    assert adapter is not None, "the reference is the model without its adapter"
    held = {name: to_numpy(tensor) for name, tensor in trainer.weights.items() if adapter.owns(name)}
    return tensors_from_numpy(**adapter.off(held))
