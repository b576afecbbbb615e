"""Adam (Kingma & Ba 2015, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Role
from llmspec.parts.optimizers.base import Learned, Optimizer, StateShapes
from llmspec.parts.updates import AdamStep

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations


class Adam(Optimizer):
    """Adam; weight decay is added to the gradient (L2), as torch.optim.Adam."""

    kind: Literal["adam"] = "adam"
    as_adam: ClassVar[bool] = True
    formula: ClassVar[str] = "m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  w ← w − lr·m̂/(√v̂ + eps)"
    beta1: float = Field(0.9, ge=0, lt=1)
    """Memory of the mean gradient."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Memory of the mean squared gradient."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    decoupled: ClassVar[bool] = False

    def together(self, max_grad_norm: float | None) -> Iterator[Problem]:
        yield from self.seen_squares(max_grad_norm, self.beta2)
        if self.decoupled:
            yield from self.decoupled_decay()

    def state(self, role: Role, shape: tuple[int, ...]) -> StateShapes:
        return {"exp_avg": shape, "exp_avg_sq": shape}

    def scalars(self, factor: float, step: int) -> tuple[float, ...]:
        return (self.lr * factor, 1 / (1 - self.beta1**step), 1 / (1 - self.beta2**step))

    def elementwise(self, role: Role) -> float:
        return 16.0 + 3.0 * bool(self.decay(role))

    def update(self, ops: Operations, of: Learned) -> None:
        decay = self.decay(of.role)
        l2, decoupled = (0.0, decay) if self.decoupled else (decay, 0.0)
        rule = AdamStep(self.beta1, self.beta2, self.eps, l2, decoupled)
        ops.update(of.update(rule, of.state["exp_avg"], of.state["exp_avg_sq"]))
