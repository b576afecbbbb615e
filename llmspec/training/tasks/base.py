"""What a task is: everything of a phase kind that the engine does not do for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from llmspec.compiler.plan import PhasePlan
from llmspec.core.metrics import Metric
from llmspec.model.others import Weights
from llmspec.training.context import RunContext
from llmspec.training.trainer import Arrays, StepTaken, Trainer

Shapes = dict[str, tuple[int, ...]]


Looks = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


class Sample(NamedTuple):
    """What a model says to a prompt while it trains."""

    prompt: str
    text: str
    finish_reason: str
    """Why it ends there; `error` where it could not be drawn."""
    origin: str = ""
    """Where the prompt was taken from; '' for what the spec says."""
    error: str = ""
    target: str = ""
    """What was to be said, where that is known."""
    attention: Looks = ()
    """Each word of the answer, with the words of the prompt that it looked at most and their shares."""


class Validation(NamedTuple):
    """What a validation came to."""

    metrics: tuple[Metric, ...]
    """Of each source, the one that says how good the model is first."""
    tokens: int
    """That were read for it."""
    tables: Mapping[str, Any] = MappingProxyType({})
    """JSON-able tables of each source, such as which label was taken for which."""


class Task:
    """A phase kind at work. The engine calls `train`, then `step_taken`, for each step; now and then the others.

    What a step reads is a function of the seed and of its number. What else shapes later steps is given by `state` and
    `tensors`, and lies in every checkpoint, so that a phase that was killed goes on bit for bit.
    """

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        self.context, self.plan, self.phase = context, phase, phase.phase

    now: tuple[float, int, int, int] | None = None
    """What the numbers of the coming step's update follow from, as `Updates.numbers` reads it; None: from the plan."""

    def captured_bytes(self) -> int:
        """Bytes that captured steps of its own hold, beside the trainer's."""
        return 0

    def begin(self, trainer: Trainer, others: Weights) -> bool:
        """Finds what is to be known before the first step and was not restored, by the model as it is then; whether
        there was any such thing. `others` are the weights of the models that stand beside, by role."""
        return False

    # -- steps ---------------------------------------------------------------------------------------------------
    def batches(self, step: int) -> Sequence[Arrays]:
        """What the passes of a step (from 0) read, by the names that the plan declares."""
        raise NotImplementedError

    def train(self, trainer: Trainer, step: int, scalars: Sequence[float]) -> StepTaken:
        """Takes optimizer step `step`. A task that makes its data with the model does so here."""
        return trainer.step(self.batches(step), scalars, step)

    def step_taken(self, step: int, taken: StepTaken) -> int:
        """Counts a step whose loss and gradient are finite; the tokens that it read."""
        return 0

    def metrics(self, taken: StepTaken) -> tuple[Metric, ...]:
        """A step's numbers by name and unit, what is minimised first."""
        objective = self.phase.objective
        return tuple(
            Metric(name, value, objective.unit if name == "loss" else "", better="lower" if name == "loss" else "")
            for name, value in taken.sums.items()
        )

    def spent(self) -> dict[str, float]:
        """Seconds since it was last asked, by what they went into, where steps have parts."""
        return {}

    # -- now and then --------------------------------------------------------------------------------------------
    def validate(self, trainer: Trainer) -> Validation:
        """How good the model is on what was kept from training; nothing where nothing was."""
        return Validation((), 0)

    @property
    def samples_drawn(self) -> int:
        """Samples that are drawn each time."""
        return 0

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        """What the model does with its prompts now; one that fails is given with its error."""
        return iter(())

    def ledger(self) -> list[dict[str, Any]]:
        """What was read so far, a row a source."""
        return []

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def state(self, step: int) -> dict[str, Any]:
        """JSON-able state after `step` steps."""
        return {}

    def tensors(self) -> dict[str, Any]:
        """Float32 numpy arrays that are state, too, by name."""
        return {}

    def tensor_shapes(self) -> Shapes:
        """Shapes of `tensors`, known before there is any."""
        return {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        """Goes on after `step` steps, from what was saved then. Raises RunError where that is of something else."""


def evenly(there: int, most: int) -> list[int]:
    """The numbers of `most` of those that are there, or of all, spread evenly: files are often in an order."""
    count = min(there, most)
    return [i * there // count for i in range(count)]
