"""A critic at work: a model of its own beside the policy, which says values and is trained in the same steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llmspec.compiler import walk
from llmspec.compiler.plan import ModelPlan, PhasePlan
from llmspec.compiler.updates import state_shapes
from llmspec.core.quantised import as_float32
from llmspec.data.inputs import Arrays, BatchInputs
from llmspec.model.weights import draw
from llmspec.parts.heads.score import Score
from llmspec.parts.objectives.values import Values
from llmspec.training.context import RunContext
from llmspec.training.trainer import StepTaken, Trainer

Moment = tuple[float, int, int, int]
"""(factor of the schedule, step from 1, steps, update from 1): what the numbers of an update follow from."""


class Critic:
    """Its weights, their optimizer and its graphs; there are none before `begin`."""

    def __init__(self, context: RunContext, planned: PhasePlan, body: ModelPlan, scale: float) -> None:
        """`planned` is the critic as a phase by itself, `body` the model that it is a copy of, and `scale` what rewards
        are multiplied with."""
        self._context, self._body, self._scale = context, body, scale
        self.model, self.phase, self._planned = planned.model, planned.phase, planned
        assert isinstance(self.phase.objective, Values), "it says values"
        self.objective: Values = self.phase.objective
        codec = context.prepared.codec
        seed = (context.plan.seed, planned.name, "critic")
        self.inputs = BatchInputs(self.model, self.phase, codec.specials, seed, codec)
        self._trainer: Trainer | None = None
        self._restored: Mapping[str, Any] | None = None

    @property
    def trainer(self) -> Trainer:
        assert self._trainer is not None, "it has begun"
        return self._trainer

    def begin(self, weights: Callable[[], Mapping[str, Any]]) -> None:
        """Makes its tensors: as they were restored, or as the model begins that it is a copy of."""
        held, state = self._restored, None
        if held is None:
            held = start_weights(self.model, self._body, weights(), self._context.plan.seed, self._scale)
        else:
            state = {name: held[name] for name in self._state_shapes()}
        numbers = held
        plan, backend = self._context.plan, self._context.backend
        self._trainer = Trainer(plan, self._planned, backend, lambda t: numbers[t.name], state)
        self._restored = None

    def step(self, batches: Sequence[Arrays], moment: Moment, number: int) -> StepTaken:
        """Optimizer step `number` (from 0) on the batches of its passes."""
        return self.trainer.step(batches, self.trainer.steps.updates.numbers(*moment), number)

    def captured_bytes(self) -> int:
        """As the trainer counts them."""
        return 0 if self._trainer is None else self._trainer.captured_bytes()

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def _state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return state_shapes(self.model, self.phase)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all that a checkpoint holds of it: weights, and the optimizer's state."""
        return {**{t.name: t.shape for t in self.model.tensors}, **self._state_shapes()}

    def tensors(self) -> dict[str, Any]:
        """The same as numpy arrays; zeros before it has begun."""
        if self._trainer is None:
            return {name: np.zeros(shape, np.float32) for name, shape in self.shapes().items()}
        return {**self._trainer.weight_arrays(), **self._trainer.state_arrays()}

    def restore(self, tensors: Mapping[str, Any]) -> None:
        """Goes on from those, once it begins."""
        self._restored = tensors


def start_weights(
    model: ModelPlan, body: ModelPlan, known: Mapping[str, Any], seed: int, scale: float = 1.0
) -> dict[str, Any]:
    """What a critic begins with: the weights of the model that it is a copy of. Where that has no head for values but
    says what answers are worth by the state of their last token, its head says values, too, in units of the scaled
    reward; else the head is drawn from the seed."""
    found = {t.name: as_float32(known[t.name]) if t.name in known else draw(t, seed) for t in model.tensors}
    (name,) = model.heads
    scores = [(n, head) for n, head in body.heads.items() if isinstance(head, Score) and head.pooling == "last"]
    own, made = f"{walk.head_path(name)}.", {"weight", "bias"}
    if name in body.heads or len(scores) != 1:
        return found
    theirs, head = f"{walk.head_path(scores[0][0])}.", scores[0][1]
    parts = {n.removeprefix(theirs): as_float32(a) for n, a in known.items() if n.startswith(theirs)}
    if parts.keys() <= made and parts["weight"].shape == found[f"{own}weight"].shape:
        unit = np.float32(scale * (1.0 if head.std is None else head.std))
        found[f"{own}weight"] = parts["weight"] * unit
        found[f"{own}bias"] = parts.get("bias", np.zeros(1, np.float32)) * unit + np.float32(scale * head.mean)
    return found
