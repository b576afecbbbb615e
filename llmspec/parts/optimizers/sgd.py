"""Stochastic gradient descent with momentum (Sutskever et al. 2013)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Role
from llmspec.parts.optimizers.base import Learned, Optimizer, StateShapes

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations


class SGD(Optimizer):
    """v ← momentum·v + g + decay·w;  w ← w − lr·v (or lr·(g + momentum·v) with nesterov), as torch.optim.SGD."""

    kind: Literal["sgd"] = "sgd"
    formula: ClassVar[str] = "v ← momentum·v + g;  w ← w − lr·v"
    momentum: float = Field(0.0, ge=0, lt=1)
    """How much of the last direction is kept."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    def state(self, role: Role, shape: tuple[int, ...]) -> StateShapes:
        return {"momentum_buffer": shape} if self.momentum else {}

    def elementwise(self, role: Role) -> float:
        return 2.0 + 2.0 * bool(self.momentum) * (1 + self.nesterov) + 2.0 * bool(self.decay(role))

    def update(self, ops: Operations, of: Learned) -> None:
        g, decay, lr = of.g * of.scale, self.decay(of.role), of.scalars[0]
        if decay:
            g = g + decay * of.w
        if not self.momentum:
            ops.assign(of.w, of.w - lr * g)
            return
        kept = of.state["momentum_buffer"]
        v = ops.assign(kept, self.momentum * kept + g)
        direction = g + self.momentum * v if self.nesterov else v
        ops.assign(of.w, of.w - lr * direction)
