"""Causal scaled dot-product attention; the kinds differ in how many heads keep keys and values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Default, Dims, ModelPart, Pointwise, TensorSpec
from llmspec.parts.positions.base import Hooks

SOFTMAX = Pointwise(15.5, 16)
"""Operations for each score: the causal mask, the maximum, the exponential, the sum and the quotient."""


class Attention(ModelPart):
    """softmax(q·kᵀ / √d + bias + mask)·v (Vaswani et al. 2017, section 3.2).

    build(dims, hooks) -> f(ops, w, pw, x_BTD, view) -> x_BTD, where `pw` are the position part's weights and
    tables, and `view` says what each query sees: its mask, its positions and, in decoding, its cache.
    """

    formula: ClassVar[str] = "softmax(q·kᵀ/√d + bias, over the keys that the mask shows)·v, in each head"
    heads: int | None = Field(None, gt=0)
    """Query heads; d_model / 64 (at least one) where left open."""
    bias: bool = False
    """Whether the query, key and value projections add a bias."""
    output_bias: bool | None = None
    """Whether the output projection adds a bias; as `bias` where left open."""

    def key_value_heads(self) -> int:
        """How many heads keep keys and values."""
        raise TypeError(f"{type(self).__name__} does not say how many heads keep keys and values")

    def defaults(self, dims: Dims) -> dict[str, Default]:
        heads = max(1, dims.d_model // 64)
        return {
            "heads": Default(heads, "d_model / 64, a usual head width"),
            "output_bias": Default(self.bias, "the same as `bias`"),
        }

    def check(self, dims: Dims) -> Iterable[Problem]:
        if dims.d_model % dims.heads:
            fits = [h for h in range(1, dims.d_model + 1) if dims.d_model % h == 0]
            below, above = [h for h in fits if h < dims.heads], [h for h in fits if h > dims.heads]
            near = " or ".join(str(h) for h in (*below[-1:], *above[:1]))
            yield Problem(
                f"{dims.heads} heads do not divide d_model {dims.d_model}", ("heads",), hint=f"heads: {near}",
                consequence="the projections could not be split into equal heads",
            )
        if dims.heads % dims.kv_heads:
            yield Problem(
                f"{dims.kv_heads} key/value heads do not divide {dims.heads} query heads", ("kv_heads",),
                hint="kv_heads: " + ", ".join(str(k) for k in range(1, dims.heads + 1) if dims.heads % k == 0),
                consequence="some query heads would have no keys to look at",
            )

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        q, kv, d = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim, dims.d_model
        out: list[TensorSpec] = []
        for name, shape in (("q", (q, d)), ("k", (kv, d)), ("v", (kv, d)), ("o", (d, q))):
            out.append(TensorSpec(f"{name}_proj.weight", shape, "matrix", residual=name == "o"))
            if self.output_bias if name == "o" else self.bias:
                out.append(TensorSpec(f"{name}_proj.bias", shape[:1], "bias"))
        return tuple(out)

    def flops(self, dims: Dims) -> float:
        """Projections, and scores and weighted sum over the full context (as computed, the masked half included)."""
        return super().flops(dims) + 4.0 * dims.context * dims.heads * dims.head_dim

    def pointwise(self, dims: Dims) -> Pointwise:
        """The masked softmax over the full context, the scaling of queries, and biases."""
        biases = sum(t.shape[0] for t in self.tensors(dims) if t.role == "bias")
        return SOFTMAX.times(dims.heads * dims.context).plus(
            Pointwise(1, 1).times(dims.heads * dims.head_dim + biases))

    def kept(self, dims: Dims) -> float:
        """Queries, keys, values and the heads' outputs; what is kept of the scores depends on the lowering."""
        return 2.0 * (dims.heads + dims.kv_heads) * dims.head_dim

    def build(self, dims: Dims, hooks: Hooks = Hooks()) -> Any:  # noqa: B008
        def heads_of(ops: Any, w: Any, name: str, x_BTD: Any, heads: int) -> Any:
            y = ops.linear(x_BTD, w[f"{name}_proj.weight"], w[f"{name}_proj.bias"] if self.bias else None)
            return y.reshape(*x_BTD.shape[:2], heads, dims.head_dim).transpose(1, 2)

        def forward(ops: Any, w: Any, pw: Any, x_BTD: Any, view: Any) -> Any:
            q_BHTd = heads_of(ops, w, "q", x_BTD, dims.heads)
            k_BKTd = heads_of(ops, w, "k", x_BTD, dims.kv_heads)
            v_BKTd = heads_of(ops, w, "v", x_BTD, dims.kv_heads)
            if hooks.rotate:
                q_BHTd = hooks.rotate(ops, pw, q_BHTd, view.queries)
                k_BKTd = hooks.rotate(ops, pw, k_BKTd, view.queries)
            k_BKSd, v_BKSd = view.remember(k_BKTd, v_BKTd)
            bias = hooks.bias(ops, pw, view.queries, view.keys) if hooks.bias else None
            y_BHTd = ops.attention(q_BHTd, k_BKSd, v_BKSd, mask=view.mask, bias=bias)
            y_BTD = y_BHTd.transpose(1, 2).reshape(*x_BTD.shape[:2], dims.heads * dims.head_dim)
            return ops.linear(y_BTD, w["o_proj.weight"], w["o_proj.bias"] if self.output_bias else None)

        return forward
