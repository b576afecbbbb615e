"""Optimizers: pure updates of one tensor, so that the step's graph holds them all.

Every number that changes from step to step (learning rate, bias corrections) is computed on the host in float64 and
enters the graph as one float32 vector, since a Python number is frozen when a graph is captured.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llmspec.parts.base import Part, Role


class Optimizer(Part):
    """How weights follow their gradients."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: float = Field(0.0, ge=0)
    """Decay of matrices and embeddings; norms and biases are never decayed."""

    def state(self, role: Role) -> tuple[str, ...]:
        """Names of the state tensors of a weight of this role, each of its shape, float32, zero at first."""
        return ()

    def scalars(self, factor: float, step: int) -> tuple[float, ...]:
        """What the graph reads at `step` (from 1); `factor` is the schedule's. The first is the learning rate."""
        return (self.lr * factor,)

    def update(self, ops: Any, role: Role, w: Any, g: Any, scale: Any, state: dict[str, Any], scalars: Any) -> None:
        """Writes weight and state by ops.assign, from the gradient scale·g and the float32 vector of `scalars`.

        `scale` (1,) is what clipping leaves of the gradient; apart, so that no scaled copy of a gradient is made.
        """
        raise TypeError(f"{type(self).__name__} updates nothing")

    def products(self, role: Role, shape: tuple[int, ...]) -> float:
        """FLOPs of the matrix products of one update of a weight."""
        return 0.0

    def pointwise(self, role: Role) -> float:
        """The other operations of one update, for each number of a weight; estimated, clipping apart."""
        raise TypeError(f"{type(self).__name__} does not say what an update takes")

    def decay(self, role: Role) -> float:
        return 0.0 if role in ("norm", "bias") else self.weight_decay
