"""Muon: momentum, orthogonalised and scaled by √max(1, rows / columns) (Jordan et al. 2024).

The decay is decoupled, as in Liu et al. 2025 (arXiv:2502.16982, section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Role
from llmspec.parts.optimizers.adamw import AdamW
from llmspec.parts.optimizers.base import Learned, Optimizer, StateShapes
from llmspec.parts.updates import MuonStep

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations


class Muon(Optimizer):
    """Momentum whose singular values are all driven to about one. Hidden matrices only; AdamW for the rest."""

    kind: Literal["muon"] = "muon"
    formula: ClassVar[str] = "v ← μv + (1−μ)g;  w ← w − lr·(√max(1, rows/columns)·orthogonalised(v) + decay·w)"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        **Optimizer.effects,
        "momentum": ("past gradients would be ignored", "new gradients would be ignored, and no weight would move"),
    }
    lr: float = Field(2e-2, gt=0)
    """Peak learning rate of the hidden matrices."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """How much of the last direction is kept."""
    nesterov: bool = True
    """Look ahead along the momentum."""
    iterations: int = Field(5, gt=0, le=12)
    """Newton–Schulz iterations."""
    adamw: AdamW = Field(default_factory=lambda: AdamW())
    """AdamW's settings for embeddings, head, norms and biases."""

    def undecayed(self) -> Self:
        return super().undecayed().model_copy(update={"adamw": self.adamw.undecayed()})

    def together(self, max_grad_norm: float | None) -> Iterator[Problem]:
        yield from self.decoupled_decay()
        if self.adamw.no_decay:
            yield Problem(
                "which tensors never decay is said once, for those of muon and of adamw",
                ("adamw", "no_decay"),
                f"optimizer: {{kind: muon, no_decay: [{', '.join(self.adamw.no_decay)}]}}",
                "it would change nothing",
            )
        yield from (p if p.path == ("max_grad_norm",) else p.at("adamw") for p in self.adamw.together(max_grad_norm))

    def state(self, role: Role, shape: tuple[int, ...]) -> StateShapes:
        return {"momentum_buffer": shape} if role == "matrix" else self.adamw.state(role, shape)

    def scalars(self, factor: float, step: int) -> tuple[float, ...]:
        return (self.lr * factor, *self.adamw.scalars(factor, step))

    def decays(self, role: Role) -> bool:
        return bool(self.weight_decay) if role == "matrix" else self.adamw.decays(role)

    def products(self, role: Role, shape: tuple[int, ...]) -> float:
        """Newton–Schulz on the wide form (m, n): m·n·m, m·m·m and m·m·n multiply-adds an iteration; each matrix of a
        stack, such as experts, is one of its own."""
        if role != "matrix":
            return self.adamw.products(role, shape)
        *stack, rows, columns = shape
        m, n = sorted((rows, columns))
        return prod(stack) * self.iterations * 2.0 * (2 * m * m * n + m**3)

    def elementwise(self, role: Role) -> float:
        return 14.0 + 5.0 * self.iterations if role == "matrix" else self.adamw.elementwise(role)

    def update(self, ops: Operations, of: Learned) -> None:
        if of.role != "matrix":
            self.adamw.update(ops, of._replace(scalars=of.scalars[1:]))
            return
        rule = MuonStep(self.momentum, self.nesterov, self.weight_decay, self.iterations)
        ops.update(of.update(rule, of.state["momentum_buffer"]))
