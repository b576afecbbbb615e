"""Updates of weights and of their states, in plain tinygrad: what every backend's mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinygrad import Tensor

from llmspec.parts.ops import Update
from llmspec.parts.updates import AdafactorStep, AdamStep, LionStep, MuonStep, Rule, ScheduleFreeStep

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's quintic iteration, from Jordan's note: slope at zero as steep as stays bounded."""


class Updates:
    """What optimizers ask for. Everything is float32, and changed in place."""

    written: list[Tensor]
    """What is to be realized, so that everything assigned here is really written."""

    def contiguous_barrier(self, x: Tensor) -> Tensor:
        """A border that fusion does not cross."""
        raise NotImplementedError

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """(…, M, K) @ (…, K, N)."""
        raise NotImplementedError

    def assign(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Writes a value into a weight or a state tensor; whoever reads the result reads what was written."""
        self.written.append(tensor.assign(value))
        return tensor

    def square_sum(self, x: Tensor) -> Tensor:
        """The sum of all squares, (1,)."""
        return x.square().sum().reshape(1)

    def update(self, asked: Update) -> None:
        """Writes a weight and its states, as a rule says."""
        STEPS[type(asked.rule)](self, asked, asked.rule)

    def average(self, average: Tensor, w: Tensor, share: Tensor) -> None:
        """Moves an average towards a weight by a share (1,) of the way, in place."""
        self.assign(average, average + share * (w - average))

    def orthogonalised(self, g_MN: Tensor, iterations: int) -> Tensor:
        """The nearest matrix with singular values near one, by Newton–Schulz; wide form, so that products are small."""
        a, b, c = NEWTON_SCHULZ
        tall = int(g_MN.shape[-2]) > int(g_MN.shape[-1])
        x = self.contiguous_barrier(g_MN.transpose(-1, -2) if tall else g_MN)
        square = (x * x).sum() if x.ndim == 2 else (x * x).sum((-2, -1), keepdim=True)
        x = self.contiguous_barrier(x / (self.contiguous_barrier(square).sqrt() + 1e-7))
        for _ in range(iterations):
            gram = self.matmul(x, x, transpose_b=True)
            polynomial = self.contiguous_barrier(b * gram + c * self.matmul(gram, gram))
            x = self.contiguous_barrier(a * x + self.matmul(polynomial, x))
        return x.transpose(-1, -2) if tall else x


def adam(ops: Updates, asked: Update, rule: AdamStep) -> None:
    """Adam's step."""
    (w, m, v), scalars = asked.written, asked.scalars
    g = asked.g * asked.scale
    g = g + rule.l2 * w if rule.l2 else g
    m = ops.assign(m, rule.beta1 * m + (1 - rule.beta1) * g)
    v = ops.assign(v, rule.beta2 * v + (1 - rule.beta2) * g * g)
    new = w - scalars[0] * (m * scalars[1]) / ((v * scalars[2]).sqrt() + rule.eps)
    ops.assign(w, new - scalars[0] * rule.decay * w if rule.decay else new)


def lion(ops: Updates, asked: Update, rule: LionStep) -> None:
    """Lion's step."""
    (w, m), g = asked.written, asked.g * asked.scale
    step = (rule.beta1 * m + (1 - rule.beta1) * g).sign() + rule.decay * w
    ops.assign(w, w - asked.scalars[0] * step)
    ops.assign(m, rule.beta2 * m + (1 - rule.beta2) * g)


def schedule_free_adamw(ops: Updates, asked: Update, rule: ScheduleFreeStep) -> None:
    """A step of schedule-free AdamW."""
    (y, z, x, v, weight_sum), scalars = asked.written, asked.scalars
    g, lr = asked.g * asked.scale, scalars[0]
    v = ops.assign(v, rule.beta2 * v + (1 - rule.beta2) * g * g)
    total = ops.assign(weight_sum, weight_sum + lr * lr)
    share = (lr * lr / total.maximum(1e-38)).reshape(1)
    z = ops.assign(z, z - lr * (g / ((v * scalars[1]).sqrt() + rule.eps) + rule.decay * y))
    x = ops.assign(x, x + share * (z - x))
    ops.assign(y, (1 - rule.beta1) * z + rule.beta1 * x)


def adafactor(ops: Updates, asked: Update, rule: AdafactorStep) -> None:
    """Adafactor's step."""
    (w, *moments), scalars = asked.written, asked.scalars
    g = asked.g * asked.scale
    squares = g * g + rule.eps1
    if len(moments) == 1:
        u = g * ops.assign(moments[0], scalars[1] * moments[0] + scalars[2] * squares).rsqrt()
    else:
        rows, columns = (
            ops.assign(old, scalars[1] * old + scalars[2] * squares.mean(axis))
            for old, axis in zip(moments, (-1, -2), strict=True)
        )
        shares = ops.contiguous_barrier(rows / rows.mean(-1, keepdim=True))
        u = g * shares.rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
    u = ops.contiguous_barrier(u)
    size = ops.contiguous_barrier(u.square().mean().sqrt())
    lr = scalars[0]
    if rule.scale_parameter:
        lr = lr * ops.contiguous_barrier(w.square().mean().sqrt().maximum(rule.eps2))
    step = u / (size / rule.clip_threshold).maximum(1.0)
    ops.assign(w, w - lr * (step + rule.decay * w))


def muon(ops: Updates, asked: Update, rule: MuonStep) -> None:
    """Muon's step."""
    (w, m), g = asked.written, asked.g * asked.scale
    v = ops.assign(m, rule.momentum * m + (1 - rule.momentum) * g)
    direction = (1 - rule.momentum) * g + rule.momentum * v if rule.nesterov else v
    rows, columns = int(w.shape[-2]), int(w.shape[-1])
    step = ops.orthogonalised(direction, rule.iterations) * math.sqrt(max(1.0, rows / columns))
    ops.assign(w, w - asked.scalars[0] * (step + rule.decay * w))


STEPS: dict[type[Rule], Callable[[Updates, Update, Any], None]] = {
    AdamStep: adam,
    LionStep: lion,
    ScheduleFreeStep: schedule_free_adamw,
    AdafactorStep: adafactor,
    MuonStep: muon,
}
"""What each rule does."""
