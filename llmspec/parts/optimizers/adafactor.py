"""Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5), without momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Role
from llmspec.parts.optimizers.base import Learned, Optimizer, StateShapes
from llmspec.parts.updates import AdafactorStep

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations

ROW, COLUMN, WHOLE = "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"


class Adafactor(Optimizer):
    """Squared gradients are kept as one number a row and one a column: the state of a matrix is next to nothing.

    Updates are bounded in size, and proportional to the size of what they change, as transformers' Adafactor does with
    `relative_step=False`.
    """

    kind: Literal["adafactor"] = "adafactor"
    formula: ClassVar[str] = (
        "v ← β̂v + (1−β̂)(g² + eps1), kept as means r of rows and c of columns;  u = g/√(r·cᵀ/mean(r));  "
        "w ← w − lr·max(eps2, RMS(w))·u/max(1, RMS(u)/clip_threshold), β̂ = 1 − t^beta2_decay"
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        **Optimizer.effects,
        "eps1": ("a gradient of 0 would be divided by 0", "no weight would ever move"),
        "eps2": ("weights that are 0 would never move", "every weight would be infinite after one step"),
        "clip_threshold": ("no weight would ever move", "no update would be bounded"),
    }
    in_float64: ClassVar[tuple[str, ...]] = ("beta2_decay",)
    lr: float = Field(1e-2, gt=0)
    """Peak learning rate: relative to the size of a tensor's weights where `scale_parameter` is on."""
    beta2_decay: float = Field(-0.8, ge=-1, lt=0)
    """How the memory of squared gradients grows: at step t, 1 − t^beta2_decay of it is kept."""
    eps1: float = Field(1e-30, gt=0)
    """Added to squared gradients."""
    eps2: float = Field(1e-3, gt=0)
    """The least size that a tensor's weights count as."""
    clip_threshold: float = Field(1.0, gt=0)
    """Root mean square of an update, before the learning rate, that larger ones are scaled down to."""
    scale_parameter: bool = True
    """Whether the learning rate is relative to the root mean square of a tensor's weights."""

    def state(self, role: Role, shape: tuple[int, ...]) -> StateShapes:
        if len(shape) < 2:
            return {WHOLE: shape}
        return {ROW: shape[:-1], COLUMN: (*shape[:-2], shape[-1])}

    def scalars(self, factor: float, step: int) -> tuple[float, ...]:
        new = float(step) ** self.beta2_decay
        return (self.lr * factor, 1 - new, new)

    def elementwise(self, role: Role) -> float:
        return 17.0 + 2.0 * bool(self.decay(role)) + 2.0 * self.scale_parameter

    def update(self, ops: Operations, of: Learned) -> None:
        moments = (of.state[name] for name in (ROW, COLUMN, WHOLE) if name in of.state)
        rule = AdafactorStep(self.eps1, self.eps2, self.clip_threshold, self.decay(of.role), self.scale_parameter)
        ops.update(of.update(rule, *moments))
