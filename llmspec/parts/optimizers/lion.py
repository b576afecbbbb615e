"""Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Role
from llmspec.parts.optimizers.base import Learned, Optimizer, StateShapes
from llmspec.parts.updates import LionStep

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations


class Lion(Optimizer):
    """The sign of a momentum, so that every weight moves by the learning rate; one number of state a weight.

    Its rates are a third to a tenth of AdamW's, and its decay as much larger (section 5 of the paper).
    """

    kind: Literal["lion"] = "lion"
    formula: ClassVar[str] = "w ← w − lr·(sign(β₁m + (1−β₁)g) + decay·w);  m ← β₂m + (1−β₂)g"
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate: what each weight moves by in a step."""
    weight_decay: float = Field(0.3, ge=0)
    """Decay of matrices and embeddings; norms and biases are never decayed."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """How much of the momentum counts beside the newest gradient."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """How much of the momentum is kept."""

    def together(self, max_grad_norm: float | None) -> Iterator[Problem]:
        yield from self.decoupled_decay()

    def state(self, role: Role, shape: tuple[int, ...]) -> StateShapes:
        return {"exp_avg": shape}

    def elementwise(self, role: Role) -> float:
        return 11.0 + 2.0 * bool(self.decay(role))

    def update(self, ops: Operations, of: Learned) -> None:
        rule = LionStep(self.beta1, self.beta2, self.decay(of.role))
        ops.update(of.update(rule, of.state["exp_avg"]))
