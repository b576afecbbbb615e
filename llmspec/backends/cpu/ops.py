"""The operations of a CPU: everything hot is a call of C."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad import Tensor

from llmspec.backends.cpu import attention, autograd, experts, frozen, halves, kept, native, quantised, updates
from llmspec.backends.cpu.attention import Drop
from llmspec.backends.cpu.quantised import rows
from llmspec.backends.plain.experts import counted
from llmspec.backends.plain.ops import Ops
from llmspec.parts.dropout import Dropout
from llmspec.parts.ops import Kept, Linear, Routing, RoutingRule, Scores, Update, WeightLayout, matrices


class CPUOps(Ops):
    """Everything hot as calls of C; dropout and SGD stay plain."""

    def __init__(
        self, address: Tensor, key: Tensor | None, dropout: float | Dropout, by_sequence: bool = False
    ) -> None:
        super().__init__(key, dropout)
        self._at, self._by_sequence = address, by_sequence

    def contiguous_barrier(self, x: Tensor) -> Tensor:
        return x if native.made(x) else super().contiguous_barrier(x)  # what a call wrote would only be copied

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        # Dropout draws its numbers in the kernel that adds.
        return super().residual(x, y) if self.drops("residual") else autograd.add(self._at, x, y)

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        return autograd.matmul(self._at, a, b, transpose_a, transpose_b)

    def plain_linears(self, x: Tensor, layers: Sequence[Linear]) -> Tensor:
        made = [self._alike(x, run) for run in quantised.alike(layers)]
        return made[0] if len(made) == 1 else Tensor.cat(*made, dim=-1)

    def _alike(self, x: Tensor, layers: Sequence[Linear]) -> Tensor:
        if layers[0].frozen:
            return frozen.linears(self._at, x, layers)
        if halves.reads(layers[0]):
            return halves.linears(self._at, x, layers, self._by_sequence)
        if layers[0].quantised is not None:
            return quantised.linears(self._at, x, layers)
        return autograd.linears(self._at, x, layers, self._by_sequence)

    def embedding(self, weight: Tensor, ids: Tensor, quantised: WeightLayout | None = None) -> Tensor:
        if quantised is not None:
            return rows(self._at, weight, quantised, ids)
        return autograd.embedding(self._at, weight, ids)

    def rotate(
        self, x_BTHd: Tensor, heads: int, cos: Tensor, sin: Tensor, p_BT: Tensor, *, interleaved: bool = False
    ) -> Tensor:
        return attention.rotate(self._at, x_BTHd, heads, cos, sin, p_BT, interleaved)

    def qk_norm(self, qkv_BTNd: Tensor, heads: int, q_weight: Tensor, k_weight: Tensor, eps: float) -> Tensor:
        return attention.qk_norm(self._at, qkv_BTNd, heads, q_weight, k_weight, eps)

    def self_attention(self, qkv_BTNd: Tensor, heads: int, ranges: Tensor, scores: Scores) -> Tensor:
        return attention.self_attention(self._at, qkv_BTNd, heads, ranges, scores, self._attention_drop())

    def attention(self, q_BTHd: Tensor, k_BSKd: Tensor, v_BSKd: Tensor, ranges: Tensor, scores: Scores) -> Tensor:
        return attention.attention(self._at, q_BTHd, k_BSKd, v_BSKd, ranges, scores, self._attention_drop())

    def _attention_drop(self) -> Drop | None:
        key = self.attention_key()
        return None if key is None else Drop(key, self._rates.attention)

    def store(self, k: Kept, v: Kept, qkv_BTNd: Tensor, heads: int, places_B3: Tensor) -> tuple[Kept, Kept]:
        if not kept.rounds(k):
            return super().store(k, v, qkv_BTNd, heads, places_B3)
        return kept.store(self._at, k, v, qkv_BTNd, heads, places_B3)

    def taken(self, kept_: Kept, rows_B: Tensor) -> Tensor:
        return kept.taken(self._at, kept_, rows_B) if kept.rounds(kept_) else super().taken(kept_, rows_B)

    def cached_attention(self, q_BTHd: Tensor, k: Kept, v: Kept, ranges: Tensor, scores: Scores) -> Tensor:
        if q_BTHd.shape[1] != 1 or not kept.rounds(k):
            return super().cached_attention(q_BTHd, k, v, ranges, scores)
        return attention.cached_attention(self._at, q_BTHd, k, v, ranges, scores)

    def router(self, logits_BTE: Tensor, correction_E: Tensor | None, rule: RoutingRule) -> Routing:
        made = experts.router(self._at, logits_BTE, correction_E, rule)
        return counted(*made, self.counted)

    def dispatch(self, x_BTD: Tensor, routing: Routing) -> Tensor:
        return experts.dispatch(self._at, x_BTD, routing)

    def grouped_linears(self, x: Tensor, routing: Routing, layers: Sequence[Linear]) -> Tensor:
        return experts.grouped_linears(self._at, x, routing, layers, self._by_sequence)

    def combine(self, x: Tensor, routing: Routing) -> Tensor:
        return experts.combine(self._at, x, routing)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        return autograd.layer_norm(self._at, x, weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return autograd.rms_norm(self._at, x, weight, eps)

    def relu(self, x: Tensor) -> Tensor:
        return autograd.activation(self._at, x, autograd.RELU)

    def relu2(self, x: Tensor) -> Tensor:
        return autograd.activation(self._at, x, autograd.RELU2)

    def gelu(self, x: Tensor) -> Tensor:
        return autograd.activation(self._at, x, autograd.GELU)

    def gelu_erf(self, x: Tensor) -> Tensor:
        return autograd.activation(self._at, x, autograd.GELU_ERF)

    def silu(self, x: Tensor) -> Tensor:
        return autograd.activation(self._at, x, autograd.SILU)

    def gated(self, activation: str, both: Tensor) -> Tensor:
        if activation not in autograd.KINDS:
            return super().gated(activation, both)
        return autograd.gated(self._at, both, autograd.KINDS[activation])

    def linear_cross_entropy(
        self,
        hidden_ND: Tensor,
        layer: Linear,
        targets_N: Tensor,
        label_smoothing: float = 0.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
    ) -> Tensor:
        more = (targets_N, label_smoothing, softcap, z_loss)
        if layer.frozen:
            return frozen.linear_cross_entropy(self._at, hidden_ND, layer, *more)
        return autograd.linear_cross_entropy(self._at, hidden_ND, matrices([layer])[0], *more)

    def square_sum(self, x: Tensor) -> Tensor:
        return updates.square_sum(self._at, x)

    def update(self, asked: Update) -> None:
        step = updates.STEPS.get(type(asked.rule))
        if step is None:
            super().update(asked)
        else:
            self.written += step(self._at, asked, asked.rule)

    def average(self, average: Tensor, w: Tensor, share: Tensor) -> None:
        self.written += updates.average(self._at, average, w, share)
