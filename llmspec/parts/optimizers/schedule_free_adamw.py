"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682, algorithm 1 with the weights of its appendix)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Role
from llmspec.parts.optimizers.base import AVERAGE, TRAINED, Learned, Optimizer, StateShapes
from llmspec.parts.updates import ScheduleFreeStep

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations


class ScheduleFreeAdamW(Optimizer):
    """AdamW whose learning rate stays at its peak: an average of the weights does what a falling rate does.

    Gradients are taken between the newest weights z and their average x, at y. Validation, samples and the trained
    model have x. A step counts in the average as the square of its learning rate, so that warm-up counts less.
    """

    kind: Literal["schedule_free_adamw"] = "schedule_free_adamw"
    formula: ClassVar[str] = (
        "v ← β₂v + (1−β₂)g²;  z ← z − lr·(g/(√v̂ + eps) + decay·y);  x ← (1−c)x + c·z, c = lr²/Σlr²;  y ← (1−β₁)z + β₁x"
    )
    averages: ClassVar[bool] = True
    schedules: ClassVar[tuple[str, ...]] = ("constant",)
    begins_as_weight: ClassVar[tuple[str, ...]] = ("z", TRAINED)
    lr: float = Field(2.5e-3, gt=0)
    """Learning rate after the warm-up: from 1 to 10 times that of AdamW with a schedule."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of matrices and embeddings; norms and biases are never decayed."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Where gradients are taken: this share of the way from the newest weights to their average."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Memory of the mean squared gradient."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""

    def together(self, max_grad_norm: float | None) -> Iterator[Problem]:
        yield from self.seen_squares(max_grad_norm, self.beta2)
        yield from self.decoupled_decay()

    def state(self, role: Role, shape: tuple[int, ...]) -> StateShapes:
        return {"z": shape, "exp_avg_sq": shape, TRAINED: shape, "weight_sum": (1,)}

    def scalars(self, factor: float, step: int) -> tuple[float, ...]:
        return (self.lr * factor, 1 / (1 - self.beta2**step))

    def elementwise(self, role: Role) -> float:
        return 20.0 + 2.0 * bool(self.decay(role))

    def update(self, ops: Operations, of: Learned) -> None:
        rule = ScheduleFreeStep(self.beta1, self.beta2, self.eps, self.decay(of.role))
        states = (of.state[name] for name in ("z", AVERAGE, "exp_avg_sq", "weight_sum"))
        ops.update(of.update(rule, *states))
