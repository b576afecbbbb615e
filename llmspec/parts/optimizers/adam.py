"""Adam (Kingma & Ba 2015, algorithm 1)."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Role
from llmspec.parts.optimizers.base import Optimizer


class Adam(Optimizer):
    """Adam; weight decay is added to the gradient (L2), as torch.optim.Adam."""

    kind: Literal["adam"] = "adam"
    formula: ClassVar[str] = "m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  w ← w − lr·m̂/(√v̂ + eps)"
    beta1: float = Field(0.9, ge=0, lt=1)
    """Memory of the mean gradient."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Memory of the mean squared gradient."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    decoupled: ClassVar[bool] = False

    def state(self, role: Role) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def scalars(self, factor: float, step: int) -> tuple[float, ...]:
        return (self.lr * factor, 1 / (1 - self.beta1**step), 1 / (1 - self.beta2**step))

    def pointwise(self, role: Role) -> float:
        return 16.0 + 3.0 * bool(self.decay(role))

    def update(self, ops: Any, role: Role, w: Any, g: Any, state: dict[str, Any], scalars: Any) -> Any:
        lr, correct1, correct2 = scalars[0], scalars[1], scalars[2]
        if self.decay(role) and not self.decoupled:
            g = g + self.decay(role) * w
        m = ops.assign(state["exp_avg"], self.beta1 * state["exp_avg"] + (1 - self.beta1) * g)
        v = ops.assign(state["exp_avg_sq"], self.beta2 * state["exp_avg_sq"] + (1 - self.beta2) * g * g)
        new = w - lr * (m * correct1) / ((v * correct2).sqrt() + self.eps)
        if self.decay(role) and self.decoupled:
            new = new - lr * self.decay(role) * w
        return new
