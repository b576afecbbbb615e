"""Updates of weights and of their states, in plain tinygrad: what every backend's mean."""

from __future__ import annotations

import math

from tinygrad import Tensor

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

    def adam(
        self,
        w: Tensor,
        m: Tensor,
        v: Tensor,
        g: Tensor,
        scale: Tensor,
        scalars: Tensor,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        l2: float,
        decay: float,
    ) -> None:
        """Adam's step on a weight and its moments, in place (Kingma & Ba 2015, algorithm 1).

        `scale` (1,) multiplies the gradient; `scalars` are the learning rate and the two bias corrections; `l2` is a
        decay added to the gradient, `decay` a decoupled one.
        """
        g = g * scale
        g = g + l2 * w if l2 else g
        m = self.assign(m, beta1 * m + (1 - beta1) * g)
        v = self.assign(v, beta2 * v + (1 - beta2) * g * g)
        new = w - scalars[0] * (m * scalars[1]) / ((v * scalars[2]).sqrt() + eps)
        self.assign(w, new - scalars[0] * decay * w if decay else new)

    def lion(
        self,
        w: Tensor,
        m: Tensor,
        g: Tensor,
        scale: Tensor,
        scalars: Tensor,
        *,
        beta1: float,
        beta2: float,
        decay: float,
    ) -> None:
        """Lion's step on a weight and its momentum, in place (Chen et al. 2023, algorithm 2).

        `scale` (1,) multiplies the gradient; `scalars[0]` is the learning rate; `decay` is decoupled.
        """
        g = g * scale
        step = (beta1 * m + (1 - beta1) * g).sign() + decay * w
        self.assign(w, w - scalars[0] * step)
        self.assign(m, beta2 * m + (1 - beta2) * g)

    def schedule_free_adamw(
        self,
        y: Tensor,
        z: Tensor,
        x: Tensor,
        v: Tensor,
        weight_sum: Tensor,
        g: Tensor,
        scale: Tensor,
        scalars: Tensor,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        decay: float,
    ) -> None:
        """A step of schedule-free AdamW (Defazio et al. 2024, algorithm 1), in place: of the newest weights z, their
        average x, the point y between both at which the gradient was taken, and its second moment v.

        `scale` (1,) multiplies the gradient; `scalars` are the learning rate and the bias correction of v;
        `weight_sum` (1,) is the sum of the squares of all learning rates so far.
        """
        g, lr = g * scale, scalars[0]
        v = self.assign(v, beta2 * v + (1 - beta2) * g * g)
        total = self.assign(weight_sum, weight_sum + lr * lr)
        share = (lr * lr / total.maximum(1e-38)).reshape(1)
        z = self.assign(z, z - lr * (g / ((v * scalars[1]).sqrt() + eps) + decay * y))
        x = self.assign(x, x + share * (z - x))
        self.assign(y, (1 - beta1) * z + beta1 * x)

    def adafactor(
        self,
        w: Tensor,
        moments: tuple[Tensor, ...],
        g: Tensor,
        scale: Tensor,
        scalars: Tensor,
        *,
        eps1: float,
        eps2: float,
        clip_threshold: float,
        decay: float,
        scale_parameter: bool,
    ) -> None:
        """Adafactor's step on a weight, in place (Shazeer & Stern 2018, algorithms 4 and 5).

        `moments` are the mean squares of rows (…, M) and columns (…, N) of a weight (…, M, N), or those of each number.
        `scale` (1,) multiplies the gradient; `scalars` are the learning rate, how much of the moments is kept, and how
        much is new; `decay` is decoupled.
        """
        g = g * scale
        squares = g * g + eps1
        if len(moments) == 1:
            u = g * self.assign(moments[0], scalars[1] * moments[0] + scalars[2] * squares).rsqrt()
        else:
            rows, columns = (
                self.assign(old, scalars[1] * old + scalars[2] * squares.mean(axis))
                for old, axis in zip(moments, (-1, -2), strict=True)
            )
            shares = self.contiguous_barrier(rows / rows.mean(-1, keepdim=True))
            u = g * shares.rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
        u = self.contiguous_barrier(u)
        size = self.contiguous_barrier(u.square().mean().sqrt())
        lr = scalars[0]
        if scale_parameter:
            lr = lr * self.contiguous_barrier(w.square().mean().sqrt().maximum(eps2))
        step = u / (size / clip_threshold).maximum(1.0)
        self.assign(w, w - lr * (step + decay * w))

    def average(self, average: Tensor, w: Tensor, share: Tensor) -> None:
        """Moves an average towards a weight by a share (1,) of the way, in place."""
        self.assign(average, average + share * (w - average))

    def muon(
        self,
        w: Tensor,
        m: Tensor,
        g: Tensor,
        scale: Tensor,
        scalars: Tensor,
        *,
        momentum: float,
        nesterov: bool,
        decay: float,
        iterations: int,
    ) -> None:
        """Muon's step on a matrix, or on each of a stack, and its momentum, in place: scaled by √max(1, rows / columns)
        (Jordan et al. 2024).

        `scale` (1,) multiplies the gradient; `scalars[0]` is the learning rate; `decay` is decoupled.
        """
        g = g * scale
        v = self.assign(m, momentum * m + (1 - momentum) * g)
        direction = (1 - momentum) * g + momentum * v if nesterov else v
        rows, columns = int(w.shape[-2]), int(w.shape[-1])
        step = self.orthogonalised(direction, iterations) * math.sqrt(max(1.0, rows / columns))
        self.assign(w, w - scalars[0] * (step + decay * w))

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
