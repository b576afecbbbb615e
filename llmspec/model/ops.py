"""The operations that parts build with, in plain tinygrad: the reference for every lowering, and what GPUs run.

Shape letters: B batch, T queries, S keys, D width, H query heads, K key/value heads, d head width, V vocabulary,
N positions (B·T), M/K rows and inner length of matrices.
"""

from __future__ import annotations

import math

from tinygrad import Tensor, dtypes


class Ops:
    """Plain tinygrad. A lowering for a device overrides what it can do faster, with the same meaning.

    `key` (2,) uint32 seeds dropout for one step; None means no dropout (evaluation, decoding).
    """

    def __init__(self, key: Tensor | None = None, dropout: float = 0.0) -> None:
        self._key, self._rate, self._sites = key, dropout, 0

    # -- products ------------------------------------------------------------------------------------------------
    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """(…, M, K) @ (…, K, N) -> (…, M, N), either side given transposed; its gradient is written down once."""
        a = a.transpose(-1, -2) if transpose_a else a
        b = b.transpose(-1, -2) if transpose_b else b
        return (a @ b).contiguous_backward()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (…, inputs) by weight (outputs, inputs) -> (…, outputs).

        Products read numbers, never expressions: fused into a product's loops, an input's or a gradient's arithmetic
        would be done again for every tile, and again in the backward pass.
        """
        y = (x.contiguous() @ weight.transpose(0, 1)).contiguous_backward()
        return y if bias is None else y + bias

    def embedding(self, weight: Tensor, ids: Tensor) -> Tensor:
        """Rows of a trained table: (V, D), int (B, T) -> (B, T, D)."""
        return weight[ids]

    def rows(self, table: Tensor, ids: Tensor) -> Tensor:
        """Rows of a constant table; no gradient."""
        return table[ids].detach()

    # -- shapes in memory ----------------------------------------------------------------------------------------
    def materialise(self, x: Tensor) -> Tensor:
        """A border that fusion does not cross, forward and backward."""
        return x.contiguous().contiguous_backward()

    def assign(self, tensor: Tensor, value: Tensor) -> Tensor:
        """Writes a value into a state tensor; whoever reads the result reads what was written."""
        return tensor.assign(value)

    # -- attention -----------------------------------------------------------------------------------------------
    def rotate(self, x_BHTd: Tensor, cos: Tensor, sin: Tensor, p_BT: Tensor) -> Tensor:
        """Rotary positions in the half-split form: x·cos + swap(x)·sin, where swap(a, b) = (-b, a)."""
        c, s = self.rows(cos, p_BT).unsqueeze(1), self.rows(sin, p_BT).unsqueeze(1)
        half = x_BHTd.shape[-1] // 2
        swapped = (-x_BHTd[..., half:]).cat(x_BHTd[..., :half], dim=-1)
        return x_BHTd * c + swapped * s

    def softmax(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Softmax over the last axis; masked places get exactly 0, and a fully masked row is all zeros."""
        low = mask.where(scores, -1e30)
        e = mask.where((low - low.max(-1, keepdim=True).detach()).exp(), 0.0)
        return self.materialise(e / e.sum(-1, keepdim=True).maximum(1e-30))

    def attention(self, q_BHTd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q·kᵀ/√d + bias | mask)·v -> (B, H, T, d); mask (B or 1, 1, T, S) is True where a key is seen."""
        batch, heads, queries, width = q_BHTd.shape
        kv, keys = k_BKSd.shape[1], k_BKSd.shape[2]
        group = heads // kv  # the queries of one key head become rows of one product
        q = self.materialise(q_BHTd * (1 / math.sqrt(width))).reshape(batch * kv, group * queries, width)
        k, v = (self.materialise(x).reshape(batch * kv, keys, width) for x in (k_BKSd, v_BKSd))
        scores = self.matmul(q, k, transpose_b=True).reshape(batch, heads, queries, keys)
        weights = self.softmax(scores if bias is None else scores + bias, mask)
        out = self.matmul(weights.reshape(batch * kv, group * queries, keys), v)
        return out.reshape(batch, heads, queries, width)

    # -- norms and activations -----------------------------------------------------------------------------------
    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """(x - mean) / √(variance + eps) · weight + bias over the last axis."""
        centred = self.materialise(x - x.mean(-1, keepdim=True))
        y = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt().contiguous() * weight
        return y if bias is None else y + bias

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / √(mean(x²) + eps) · weight over the last axis."""
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt().contiguous() * weight

    def relu(self, x: Tensor) -> Tensor:
        return x.relu()

    def gelu(self, x: Tensor) -> Tensor:
        """0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
        return x.gelu()

    def silu(self, x: Tensor) -> Tensor:
        """x·sigmoid(x)."""
        return x * x.sigmoid()

    def gated(self, activation: str, gate: Tensor, up: Tensor) -> Tensor:
        """activation(gate) · up."""
        return getattr(self, activation)(gate) * up

    def dropout(self, x: Tensor) -> Tensor:
        """Drops each number with the model's rate and scales the rest; each call is a site with bits of its own."""
        if self._key is None or not self._rate:
            return x
        self._sites += 1
        half = -(-x.numel() // 2)
        site = Tensor.full((half,), self._sites, dtype=dtypes.uint32)
        bits = Tensor._threefry_random_bits(self._key, Tensor.arange(half, dtype=dtypes.uint32), site)
        keep = bits[: x.numel()].reshape(x.shape) >= int(self._rate * 2**32)
        return keep.contiguous().where(x * (1 / (1 - self._rate)), 0.0)

    # -- loss ----------------------------------------------------------------------------------------------------
    def cross_entropy(self, logits_NV: Tensor, targets_N: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Negative log-likelihood of each target in nats (N,), targets smoothed evenly over the vocabulary."""
        low = logits_NV - logits_NV.max(-1, keepdim=True).detach()
        log_total = low.exp().sum(-1).log()
        chosen = low.gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)
        if not label_smoothing:
            return log_total - chosen
        return log_total - (1 - label_smoothing) * chosen - label_smoothing * low.mean(-1)
