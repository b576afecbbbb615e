"""The operations that parts build with, in plain tinygrad: the reference for every backend, and what GPUs run.

Shape letters: B batch, T queries, S keys, D width, H query heads, K key/value heads, d head width, V vocabulary,
N positions (B·T), M/K rows and inner length of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinygrad import Tensor, dtypes

from llmspec.backends.plain import experts
from llmspec.backends.plain.cache_rows import store, whole
from llmspec.backends.plain.near import by_distance, by_place
from llmspec.backends.plain.updates import Updates
from llmspec.backends.tinygrad_private import random_bits
from llmspec.parts.dropout import Dropout, Site, by_site
from llmspec.parts.ops import HALF, Kept, Linear, Routing, RoutingRule, Scores, WeightLayout, adapted, matrices


class Ops(Updates):
    """Plain tinygrad. A backend for a device overrides what it can do faster, with the same meaning.

    `key` (2,) uint32 seeds dropout for one step; None means no dropout (evaluation, decoding).
    """

    def __init__(self, key: Tensor | None = None, dropout: float | Dropout = 0.0) -> None:
        self._key, self._rates, self.sites = key, by_site(dropout), 0
        """`sites`: how many there were so far."""
        self.written: list[Tensor] = []
        """What is to be realized, so that everything assigned here is really written."""
        self.counted: Tensor | None = None
        self.losses: dict[str, Tensor] = {}
        """What parts add to the objective's loss, by name."""
        self.metrics: dict[str, Tensor] = {}
        """What parts tell of themselves, by name."""

    # -- products ------------------------------------------------------------------------------------------------
    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """(…, M, K) @ (K, N) or (…, K, N) -> (…, M, N), its gradient written down once; every product ends here."""
        return (a @ b).contiguous_backward()

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """(…, M, K) @ (…, K, N) -> (…, M, N), either side given transposed."""
        a = a.transpose(-1, -2) if transpose_a else a
        b = b.transpose(-1, -2) if transpose_b else b
        return self.product(a, b)

    def linear(self, x: Tensor, layer: Linear) -> Tensor:
        """x (…, inputs) by weight (outputs, inputs) -> (…, outputs)."""
        return self.linears(x, [layer])

    def linears(self, x: Tensor, layers: Sequence[Linear]) -> Tensor:
        """Up to three layers of one input, weights and biases, -> (…, Σ outputs) side by side: one product.

        Products read numbers, never expressions: fused into a product's loops, an input's or a gradient's arithmetic
        would be done again for every tile, and again in the backward pass.
        """
        return adapted(self, x, layers, self.plain_linears(x, layers))

    def plain_linears(self, x: Tensor, layers: Sequence[Linear]) -> Tensor:
        """The same without the layers' adapters."""
        weights, biases = matrices(layers), [layer.bias for layer in layers if layer.bias is not None]
        joined = weights[0] if len(weights) == 1 else self.contiguous_barrier(Tensor.cat(*weights))
        y = self.product(x.contiguous(), joined.transpose(0, 1))
        return y + Tensor.cat(*biases) if biases else y

    def embedding(self, weight: Tensor, ids: Tensor, quantised: WeightLayout | None = None) -> Tensor:
        """Rows of a trained table: (V, D), int (B, T) -> (B, T, D)."""
        if quantised is not None and quantised.type == HALF:  # a row is widened, never the table
            return weight[ids].float()
        return matrices([Linear(weight, quantised=quantised)])[0][ids]

    def rows(self, table: Tensor, ids: Tensor) -> Tensor:
        """Rows of a constant table; no gradient."""
        return table[ids].detach()

    # -- shapes in memory ----------------------------------------------------------------------------------------
    def contiguous_barrier(self, x: Tensor) -> Tensor:
        """A border that fusion does not cross, forward and backward."""
        return x.contiguous().contiguous_backward()

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """What a branch adds to the residual stream: x + dropout(y), of one shape, and a border."""
        return self.contiguous_barrier(x + self.dropout(y, "residual"))

    # -- attention -----------------------------------------------------------------------------------------------
    def rotate(
        self, x_BTHd: Tensor, heads: int, cos: Tensor, sin: Tensor, p_BT: Tensor, *, interleaved: bool = False
    ) -> Tensor:
        """Rotary positions for the first `heads`: x·cos + swap(x)·sin for the first numbers of each head, as many as
        the tables (positions, width) are wide; the others stay as they are.

        swap(a, b) = (-b, a) of the two halves of those numbers, or of each two neighbours where `interleaved`.
        """
        c, s, width = self.rows(cos, p_BT).unsqueeze(2), self.rows(sin, p_BT).unsqueeze(2), int(cos.shape[-1])
        x, rest = x_BTHd[:, :, :heads, :width], x_BTHd[:, :, heads:]
        pairs = x.reshape(*x.shape[:-1], *((width // 2, 2) if interleaved else (2, width // 2)))
        first, second = pairs.chunk(2, dim=-1 if interleaved else -2)
        swapped = (-second).cat(first, dim=-1 if interleaved else -2).reshape(x.shape)
        turned = x * c + swapped * s
        if width < x_BTHd.shape[-1]:
            turned = turned.cat(x_BTHd[:, :, :heads, width:], dim=-1)
        return turned.cat(rest, dim=2) if rest.shape[2] else turned

    def qk_norm(self, qkv_BTNd: Tensor, heads: int, q_weight: Tensor, k_weight: Tensor, eps: float) -> Tensor:
        """`rms_norm` over each of the `heads` of queries and of the K heads of keys; values stay as they are.

        Weights (d,) are for each head; those of (H·d,) and (K·d,) for all heads of queries or keys as one vector, as in
        OLMo 2 (arXiv:2501.00656, section 2.1).

        The heads of queries, keys and values lie side by side, N = H + 2K, before and after, as `rotate` and
        `self_attention` take them (Henry et al. 2020, arXiv:2010.04245, with RMS norm as in Qwen3).
        """
        kv = (int(qkv_BTNd.shape[2]) - heads) // 2
        q, k, v = qkv_BTNd.split([heads, kv, kv], dim=2)

        def normed(x_BTHd: Tensor, weight: Tensor) -> Tensor:
            rows = x_BTHd.reshape(*x_BTHd.shape[:2], -1, weight.shape[0])
            return self.rms_norm(rows, weight, eps).reshape(x_BTHd.shape)

        return normed(q, q_weight).cat(normed(k, k_weight), v, dim=2)

    def self_attention(self, qkv_BTNd: Tensor, heads: int, ranges: Tensor, scores: Scores) -> Tensor:
        """`attention` with the heads of queries, keys and values side by side: (B, T, H + 2K, d) -> (B, T, H, d)."""
        kv = (int(qkv_BTNd.shape[2]) - heads) // 2
        q, k, v = qkv_BTNd.split([heads, kv, kv], dim=2)
        return self._attention(q, k, v, ranges, scores, own=True)

    def store(self, k: Kept, v: Kept, qkv_BTNd: Tensor, heads: int, places_B3: Tensor) -> tuple[Kept, Kept]:
        """The caches with new keys and values in them, written in place, rounded to what they hold.

        `places` (B, 3) int32 are, of each row of the batch, a row of the cache, the first place there, and how many of
        its tokens are stored. To be realized by the caller.
        """
        return store(k, v, qkv_BTNd, heads, places_B3)

    def taken(self, kept: Kept, rows_B: Tensor) -> Tensor:
        """Those rows of a cache (B, S, K, d) float32."""
        if kept.values.dtype == dtypes.float32:
            flat = kept.values.reshape(int(kept.values.shape[0]), -1)
            return self.embedding(flat, rows_B).reshape(-1, *kept.values.shape[1:])
        return whole(Kept(kept.values[rows_B], None if kept.scales is None else kept.scales[rows_B]))

    def cached_attention(self, q_BTHd: Tensor, k: Kept, v: Kept, ranges: Tensor, scores: Scores) -> Tensor:
        """`attention` with keys and values of a cache."""
        return self.attention(q_BTHd, whole(k), whole(v), ranges, scores)

    def softmax(self, scores: Tensor, mask: Tensor, sinks: Tensor | None = None) -> Tensor:
        """Softmax over the last axis; masked places get exactly 0, and a fully masked row is all zeros.

        `sinks` (…, 1) is one more score of each row, whose share is left out.
        """
        low = mask.where(scores, -1e30)
        high = low.max(-1, keepdim=True).detach()
        if sinks is not None:
            high = high.maximum(sinks.detach())
        e = mask.where((low - high).exp(), 0.0)
        total = e.sum(-1, keepdim=True)
        if sinks is not None:
            total = total + (sinks - high).exp()
        return self.contiguous_barrier(e / total.maximum(1e-30))

    def attention(self, q_BTHd: Tensor, k_BSKd: Tensor, v_BSKd: Tensor, ranges: Tensor, scores: Scores) -> Tensor:
        """softmax(softcap(scale·q·kᵀ) + bias + near)·v -> (B, T, H, d), as `scores` says.

        A query sees the keys first … end - 1 of ranges (B or 1, T, 2) int32; one without keys gets zeros.
        """
        return self._attention(q_BTHd, k_BSKd, v_BSKd, ranges, scores, own=False)

    def _attention(
        self, q_BTHd: Tensor, k_BSKd: Tensor, v_BSKd: Tensor, ranges: Tensor, scores: Scores, own: bool
    ) -> Tensor:
        """`attention`, of keys that are the queries' `own`, or of others."""
        batch, queries, heads, width = q_BTHd.shape
        keys, kv = k_BSKd.shape[1:3]
        group = heads // kv  # the queries of one key head become rows of one product
        place = Tensor.arange(keys).reshape(1, 1, 1, keys)
        mask = (place >= ranges[:, None, :, :1]) & (place < ranges[:, None, :, 1:])
        scale = 1 / math.sqrt(width) if scores.scale is None else scores.scale
        q = self.contiguous_barrier(q_BTHd.transpose(1, 2) * scale)
        q = q.reshape(batch * kv, group * queries, width)
        k, v = (
            self.contiguous_barrier(x.transpose(1, 2)).reshape(batch * kv, keys, x.shape[-1]) for x in (k_BSKd, v_BSKd)
        )
        x = self.matmul(q, k, transpose_b=True).reshape(batch, heads, queries, keys)
        if scores.softcap is not None:
            x = self.softcap(x, scores.softcap)
        if scores.bias is not None:
            x = x + (scores.bias if scores.bias_gradient else scores.bias.detach())
        if scores.near is not None:
            x = x + (by_place(scores.near, int(queries)) if own else by_distance(scores.near))
        sinks = None if scores.sinks is None else scores.sinks.reshape(1, heads, 1, 1)
        weights = self._attention_dropout(self.softmax(x, mask, sinks))
        out = self.matmul(weights.reshape(batch * kv, group * queries, keys), v)
        return out.reshape(batch, heads, queries, v_BSKd.shape[-1]).transpose(1, 2)

    # -- norms and activations -----------------------------------------------------------------------------------
    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """(x - mean) / √(variance + eps) · weight + bias over the last axis."""
        centred = self.contiguous_barrier(x - x.mean(-1, keepdim=True))
        y = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt().contiguous() * weight
        return y if bias is None else y + bias

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / √(mean(x²) + eps) · weight over the last axis."""
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt().contiguous() * weight

    def relu(self, x: Tensor) -> Tensor:
        return x.relu()

    def relu2(self, x: Tensor) -> Tensor:
        """max(0, x)²."""
        return x.relu().square()

    def gelu(self, x: Tensor) -> Tensor:
        """0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
        return x.gelu()

    def gelu_erf(self, x: Tensor) -> Tensor:
        """0.5·x·(1 + erf(x/√2))."""
        return x.gelu(approximate="none")

    def silu(self, x: Tensor) -> Tensor:
        """x·sigmoid(x)."""
        return x * x.sigmoid()

    def gated(self, activation: str, both: Tensor) -> Tensor:
        """activation(gate) · up, for gate and up side by side: (…, 2F) -> (…, F)."""
        gate, up = self.contiguous_barrier(both).chunk(2, dim=-1)
        return getattr(self, activation)(gate) * up

    def drops(self, site: Site) -> bool:
        """Whether anything is dropped there."""
        return self._key is not None and bool(getattr(self._rates, site))

    def dropout(self, x: Tensor, site: Site | float) -> Tensor:
        """Drops each number with the rate of such a site, or with a rate of its own, and scales the rest; each call has
        bits of its own. x itself where nothing is dropped."""
        rate = site if isinstance(site, float) else getattr(self._rates, site)
        if self._key is None or not rate:
            return x
        self.sites += 1
        half = -(-x.numel() // 2)
        high = Tensor.full((half,), self.sites, dtype=dtypes.uint32)
        bits = random_bits(self._key, Tensor.arange(half, dtype=dtypes.uint32), high)
        return self._kept(x, bits[: x.numel()].reshape(x.shape), rate)

    def _kept(self, x: Tensor, bits: Tensor, rate: float) -> Tensor:
        """x where uint32 `bits` reach the rate, scaled; 0 elsewhere."""
        return (bits >= int(rate * 2**32)).contiguous().where(x * (1 / (1 - rate)), 0.0)

    def attention_key(self) -> Tensor | None:
        """(2,) uint32 for the next attention's dropout; None where nothing is dropped there."""
        if not self.drops("attention"):
            return None
        self.sites += 1
        site = Tensor.full((1,), self.sites, dtype=dtypes.uint32)
        return random_bits(self._key, Tensor.zeros(1, dtype=dtypes.uint32), site).contiguous()

    def _attention_dropout(self, weights_BHTS: Tensor) -> Tensor:
        """Drops weights of keys. The two words of counters (j, row) under the site's key are for keys 2j and 2j + 1 of
        that row of weights, so that a row's bits are made by themselves, where they are used."""
        key = self.attention_key()
        if key is None:
            return weights_BHTS
        *lead, keys = (int(n) for n in weights_BHTS.shape)
        rows, pairs = math.prod(lead), -(-keys // 2)
        low = Tensor.arange(pairs, dtype=dtypes.uint32).reshape(1, pairs).expand(rows, pairs)
        high = Tensor.arange(rows, dtype=dtypes.uint32).reshape(rows, 1).expand(rows, pairs)
        words = random_bits(key, low.reshape(-1), high.reshape(-1)).reshape(2, rows, pairs)
        bits = words.permute(1, 2, 0).reshape(rows, 2 * pairs)[:, :keys].reshape(weights_BHTS.shape)
        return self.contiguous_barrier(self._kept(weights_BHTS, bits, self._rates.attention))

    # -- experts -------------------------------------------------------------------------------------------------
    def router(self, logits_BTE: Tensor, correction_E: Tensor | None, rule: RoutingRule) -> Routing:
        """The experts with the highest scores for each token, and their weights, as the rule says.

        `correction` is added for the choice alone and has no gradient; of equal scores the first is taken.
        """
        made = experts.routed(logits_BTE, correction_E, rule)
        return experts.counted(*made, self.counted)

    def dispatch(self, x_BTD: Tensor, routing: Routing) -> Tensor:
        """Each token's vector once for each expert that it takes, in the order of the experts: (rows, D)."""
        return experts.dispatched(x_BTD, routing)

    def grouped_linears(self, x: Tensor, routing: Routing, layers: Sequence[Linear]) -> Tensor:
        """`linears` with an expert's own weights, stacked (E, outputs, inputs), for its rows: (rows, Σ outputs)."""
        blocks = int(routing.groups.shape[0])
        weights, biases = matrices(layers), [layer.bias for layer in layers if layer.bias is not None]
        joined = self.contiguous_barrier(Tensor.cat(*weights, dim=1)[routing.groups])
        rows = self.contiguous_barrier(x).reshape(blocks, -1, x.shape[-1])
        y = self.product(rows, joined.transpose(1, 2))
        y = y + Tensor.cat(*biases, dim=1)[routing.groups].unsqueeze(1) if biases else y
        return y.reshape(x.shape[0], -1)

    def combine(self, x: Tensor, routing: Routing) -> Tensor:
        """The sum of what a token's experts gave, each times its weight: (rows, D) -> (N, D)."""
        return experts.combined(x, routing)

    # -- loss ----------------------------------------------------------------------------------------------------
    def softcap(self, x: Tensor, softcap: float) -> Tensor:
        """softcap·tanh(x / softcap): x, its size bounded softly (Gemma Team 2024, arXiv:2408.00118, section 2)."""
        return (x / softcap).tanh() * softcap

    def linear_cross_entropy(
        self,
        hidden_ND: Tensor,
        layer: Linear,
        targets_N: Tensor,
        label_smoothing: float = 0.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
    ) -> Tensor:
        """Negative log-likelihood of each target in nats (N,) under a layer's logits, without its bias, bounded by a
        softcap.

        Targets are smoothed evenly over the vocabulary; z_loss · z² is added, z the logarithm of what the softmax
        divides by. Head and loss are one operation, so that a device may keep the
        logits (the largest tensor of a small model) once.
        """
        logits_NV = self.contiguous_barrier(self.linear(hidden_ND, layer._replace(bias=None)))
        if softcap is not None:
            logits_NV = self.contiguous_barrier(self.softcap(logits_NV, softcap))
        high = logits_NV.max(-1, keepdim=True).detach()
        low = logits_NV - high
        log_total = low.exp().sum(-1).log()
        chosen = low.gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)
        loss = log_total - chosen
        if label_smoothing:
            loss = log_total - (1 - label_smoothing) * chosen - label_smoothing * low.mean(-1)
        return loss + z_loss * (log_total + high.squeeze(-1)).square() if z_loss else loss

    def add_loss(self, name: str, value: Tensor) -> None:
        """Adds a value () to the loss of training; values of one name, of several layers, are summed."""
        self.losses[name] = self.losses[name] + value if name in self.losses else value

    def add_metric(self, name: str, value: Tensor) -> None:
        """Tells a value () of training; of several layers the largest."""
        value = value.detach()
        self.metrics[name] = self.metrics[name].maximum(value) if name in self.metrics else value
