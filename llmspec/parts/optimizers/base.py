"""Optimizers: pure updates of one tensor, so that the step's graph holds them all.

Every number that changes from step to step (learning rate, bias corrections) is computed on the host in float64 and
enters the graph as one float32 vector, since a Python number is frozen when a graph is captured.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from pydantic import Field

from llmspec.core.float32 import SMALLEST, STEP_BELOW_ONE
from llmspec.core.problems import Problem
from llmspec.parts.base import Part, Role
from llmspec.parts.ops import Update

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor
    from llmspec.parts.updates import Rule

StateShapes = dict[str, tuple[int, ...]]
TRAINED, AVERAGE = "trained", "average"
"""A state that is trained in the place of its weight, which then is an average of it for validation, samples and the
trained model; and that weight, beside the states of an update."""


class Learned(NamedTuple):
    """A weight, its gradient and its states, in one step."""

    role: Role
    w: Tensor
    """The weight; where a state is TRAINED it is that state, and the weight is `state[AVERAGE]`."""
    g: Tensor
    scale: Tensor
    """(1,): what clipping leaves of the gradient; apart, so that no scaled copy of a gradient is made."""
    state: dict[str, Tensor]
    scalars: Tensor
    """The numbers of this step as `Optimizer.scalars` gives them, float32."""

    def update(self, rule: Rule, *states: Tensor) -> Update:
        """What becomes of the weight, and of states of it, by a rule."""
        return Update(rule, (self.w, *states), self.g, self.scale, self.scalars)


class Optimizer(Part):
    """How weights follow their gradients."""

    averages: ClassVar[bool] = False
    """Whether it averages weights, and one of its states is TRAINED."""
    schedules: ClassVar[tuple[str, ...]] = ()
    """The kinds of schedules that it goes with; empty where it goes with all."""
    as_adam: ClassVar[bool] = False
    """Whether its steps are of the size of Adam's, so that learning rates that are usual with Adam are with it, too."""
    begins_as_weight: ClassVar[tuple[str, ...]] = ()
    """Names of the states that are a copy of their weight at first; all others are zeros."""

    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "lr": ("no weight would ever move", "every weight would be infinite after one step"),
        "weight_decay": ("nothing would decay", "every weight would be infinite after one step"),
        **dict.fromkeys(
            ("momentum", "beta1", "beta2"), ("past gradients would be ignored", "past gradients would never fade")
        ),
        "eps": ("weights whose gradient is 0 would be divided by 0 and become NaN", "no weight would ever move"),
    }
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it. Where it is left out with adam and adamw, phases that learn from
    answers have a lower one, which `explain` says."""
    weight_decay: float = Field(0.0, ge=0)
    """Decay of matrices and embeddings; norms and biases are never decayed."""
    no_decay: tuple[str, ...] = ()
    """Patterns of names of more tensors that are never decayed, such as `embed_tokens.*`."""

    def of(self, name: str) -> Self:
        """The settings for a tensor of that name."""
        return self.undecayed() if any(fnmatchcase(name, pattern) for pattern in self.no_decay) else self

    def undecayed(self) -> Self:
        """The same without decay."""
        return self.model_copy(update={"weight_decay": 0.0})

    def state(self, role: Role, shape: tuple[int, ...]) -> StateShapes:
        """Shapes of the state tensors of a weight of this role and shape, by name; float32."""
        return {}

    def scalars(self, factor: float, step: int) -> tuple[float, ...]:
        """What the graph reads at `step` (from 1); `factor` is the schedule's. The first is the learning rate."""
        return (self.lr * factor,)

    def update(self, ops: Operations, of: Learned) -> None:
        """Writes weight and state, by ops.assign or ops.update."""
        raise TypeError(f"{type(self).__name__} updates nothing")

    def products(self, role: Role, shape: tuple[int, ...]) -> float:
        """FLOPs of the matrix products of one update of a weight."""
        return 0.0

    def elementwise(self, role: Role) -> float:
        """The other operations of one update, for each number of a weight; estimated, clipping apart."""
        raise TypeError(f"{type(self).__name__} does not say what an update takes")

    def together(self, max_grad_norm: float | None) -> Iterator[Problem]:
        """What float32 makes of one number beside another; gradients are clipped to `max_grad_norm`."""
        return iter(())

    def decoupled_decay(self) -> Iterator[Problem]:
        """Of a decay that takes lr · weight_decay of a weight each step."""
        taken = self.lr * self.weight_decay
        if 0 < taken <= STEP_BELOW_ONE:
            yield Problem(
                f"at a learning rate of {self.lr:g} it takes {taken:.2g} of a weight each step, and 1 - {taken:.2g} is "
                "1 in float32",
                ("weight_decay",),
                f"weight_decay: 0, or {1.1 * STEP_BELOW_ONE / self.lr:.2g} and more",
                "nothing would decay",
            )

    def seen_squares(self, max_grad_norm: float | None, beta2: float) -> Iterator[Problem]:
        """Of clipped gradients whose squares are kept."""
        least = sqrt(SMALLEST / (1 - beta2))
        if max_grad_norm is not None and max_grad_norm < least:
            yield Problem(
                f"gradients are clipped to {max_grad_norm:g}, and the squares of numbers below {least:.2g} are 0 "
                "in float32",
                ("max_grad_norm",),
                "max_grad_norm: 1 is the default, null clips nothing",
                "the optimizer would see no gradient, and weights would hardly move",
            )

    def decays(self, role: Role) -> bool:
        """Whether weights of a role decay."""
        return bool(self.decay(role))

    def decay(self, role: Role) -> float:
        return 0.0 if role in ("norm", "bias") else self.weight_decay
