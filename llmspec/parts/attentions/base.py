"""Scaled dot-product attention; the kinds differ in how many heads keep keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.core.table import choice
from llmspec.parts import norms
from llmspec.parts.base import Default, Dims, ElementwiseOps, ModelPart, TensorSpec
from llmspec.parts.ops import Near, Scores
from llmspec.parts.positions.base import Hooks

if TYPE_CHECKING:
    from llmspec.parts.ops import CrossView, LayerView, Operations, Tensor, WeightView

Attend = Callable[["Operations", "WeightView", "WeightView", "Tensor", "LayerView"], "Tensor"]


class CrossFunctions(NamedTuple):
    """Cross-attention in two steps, so that decoding keeps what the first one makes."""

    keys_values: Callable[[Operations, WeightView, Tensor], tuple[Tensor, Tensor]]
    """f(ops, w, states_BSD) -> keys and values (B, S, K, d)."""
    attend: Callable[[Operations, WeightView, Tensor, CrossView], Tensor]
    """f(ops, w, x_BTD, view) -> x_BTD, `view` holding keys and values and the range of them that each query sees."""


SOFTMAX = ElementwiseOps(15.5, 16)
"""Operations for each score: the mask, the maximum, the exponential, the sum and the quotient."""


SOFTCAP = ElementwiseOps(8, 6)
"""Operations for each score that a softcap bounds: a hyperbolic tangent and two factors."""


class Attention(ModelPart):
    """softmax(q·kᵀ / √d + bias + mask)·v (Vaswani et al. 2017, section 3.2).

    build(dims, hooks) -> f(ops, w, pw, x_BTD, view) -> x_BTD, where `pw` are the position part's weights and
    tables, and `view` says what each query sees: its range of keys, its position and, in decoding, its cache.
    """

    formula: ClassVar[str] = "softmax(q·kᵀ/√d + bias, over the keys that the mask allows)·v, in each head"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "scale": ("every score would be 0, and all keys would weigh alike", "scores would be infinite or NaN"),
        "softcap": ("scores would be divided by 0 and become NaN", "nothing would be bounded, and scores become NaN"),
    }
    heads: int | None = Field(None, gt=0, le=1 << 20)
    """Query heads; if omitted d_model / head_dim, or d_model / 64 (at least one) where that is omitted too."""
    head_dim: int | None = Field(None, gt=0, le=1 << 20)
    """Width of a head; d_model / heads if omitted."""
    bias: bool = False
    """Whether the query, key and value projections add a bias."""
    output_bias: bool | None = None
    """Whether the output projection adds a bias; the same as `bias` if omitted."""
    scale: float | None = Field(None, gt=0)
    """Factor on the scores q·k; 1/√head_dim if omitted."""
    softcap: float | None = Field(None, gt=0)
    """Largest size of a score: softcap·tanh(score / softcap) (Gemma Team 2024, section 2); unlimited if omitted."""
    qk_norm: Annotated[norms.Norm, choice(norms.TABLE, "rmsnorm")] | None = None
    """Norm of each query and key head, before positions rotate them (Dehghani et al. 2023, section 2); none where left
    open."""

    qk_norm_over: Literal["head", "all_heads"] = "head"
    """What `qk_norm` takes as one vector: each `head` by itself, or `all_heads` of a token's queries, and all of its
    keys (OLMo 2)."""

    sinks: bool = False
    """Whether each head has a trained score beside those of the keys, which takes its share of the softmax and has no
    value (gpt-oss, arXiv:2508.10925)."""

    def key_value_heads(self) -> int:
        """How many heads keep keys and values."""
        raise TypeError(f"{type(self).__name__} does not say how many heads keep keys and values")

    def defaults(self, dims: Dims) -> dict[str, Default]:
        by_width = Default(max(1, dims.d_model // (self.head_dim or 64)), "d_model / 64, a usual head width")
        if self.head_dim:
            by_width = by_width._replace(why="d_model / head_dim")
        heads = self.heads or by_width.value
        # Where heads do not divide the width there is no such width of a head, which `check` says.
        head_dim = {} if dims.d_model % heads else {"head_dim": Default(dims.d_model // heads, "d_model / heads")}
        return {"heads": by_width, **head_dim, "output_bias": Default(self.bias, "the same as `bias`")}

    def shaped(self, dims: Dims) -> Dims:
        """The dimensions with this part's heads, once its open keys are filled."""
        heads = self.heads or 1
        head_dim = self.head_dim or max(1, dims.d_model // heads)
        return replace(dims, heads=heads, kv_heads=self.key_value_heads(), head_dim=head_dim)

    def check(self, dims: Dims) -> Iterable[Problem]:
        if self.qk_norm is None and self.qk_norm_over != "head":
            yield Problem(
                f"`{self.qk_norm_over}` says what qk_norm goes over, and there is none",
                ("qk_norm_over",),
                hint="qk_norm: {kind: rmsnorm}",
                consequence="it would change nothing",
            )
        if self.head_dim is None and dims.d_model % dims.heads:
            fits = [h for h in range(1, dims.d_model + 1) if dims.d_model % h == 0]
            below, above = [h for h in fits if h < dims.heads], [h for h in fits if h > dims.heads]
            near = " or ".join(str(h) for h in (*below[-1:], *above[:1]))
            yield Problem(
                f"{dims.heads} heads do not divide d_model {dims.d_model}",
                ("heads",),
                hint=f"heads: {near}, or a `head_dim` of its own",
                consequence="the projections could not be split into equal heads",
            )
        if dims.heads % dims.kv_heads:
            yield Problem(
                f"{dims.kv_heads} key/value heads do not divide {dims.heads} query heads",
                ("kv_heads",),
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
        if self.qk_norm:
            for name, heads in (("q", dims.heads), ("k", dims.kv_heads)):
                width = dims.head_dim * (heads if self.qk_norm_over == "all_heads" else 1)
                of_norm = self.qk_norm.tensors(replace(dims, d_model=width))
                out += [t._replace(name=f"{name}_norm.{t.name}") for t in of_norm]
        if self.sinks:
            out.append(TensorSpec("sinks", (dims.heads,), "bias"))
        return tuple(out)

    def flops(self, dims: Dims) -> float:
        """Projections, and scores and weighted sum over the keys that a query of a full context sees at most (those
        that a causal mask hides are computed, too, and those outside a window are not)."""
        return super().flops(dims) + 4.0 * dims.seen * dims.heads * dims.head_dim

    def product(self, matrix: TensorSpec, dims: Dims) -> float:
        made_once = matrix.name.startswith(("k_proj.", "v_proj."))
        return super().product(matrix, dims) * (dims.sources if made_once else 1)

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The masked softmax over those keys, the scaling of queries, their and the keys' norms, and biases."""
        biases = sum(t.shape[0] for t in self.tensors(dims) if t.name.endswith("_proj.bias"))
        normed = ElementwiseOps()
        if self.qk_norm:
            normed = self.qk_norm.per_number.times((dims.heads + dims.kv_heads) * dims.head_dim)
        capped = SOFTCAP.times(dims.heads * dims.seen if self.softcap else 0)
        return SOFTMAX.times(dims.heads * dims.seen).plus(
            capped, ElementwiseOps(1, 1).times(dims.heads * dims.head_dim + biases), normed
        )

    def saved_for_backward(self, dims: Dims) -> float:
        """Queries, keys, values and the heads' outputs; what is kept of the scores depends on the backend."""
        each = dims.heads + dims.kv_heads * dims.sources
        return (2.0 * each + (each if self.qk_norm else 0)) * dims.head_dim

    def dropped(self, dims: Dims) -> float:
        """A probability for each key that a query sees at most."""
        return float(dims.heads * dims.seen)

    def build(self, dims: Dims, hooks: Hooks = Hooks()) -> Attend:  # noqa: B008
        heads, kv, width = dims.heads, dims.kv_heads, dims.head_dim
        whole = self.qk_norm_over == "all_heads"
        norm_dims = replace(dims, d_model=width * heads if whole else width)
        norm = self.qk_norm.build_heads(norm_dims, whole) if self.qk_norm else None

        def forward(ops: Operations, w: WeightView, pw: WeightView, x_BTD: Tensor, view: LayerView) -> Tensor:
            layers = [w.linear(f"{n}_proj") for n in "qkv"]
            qkv_BTNd = ops.linears(x_BTD, layers).reshape(*x_BTD.shape[:2], heads + 2 * kv, width)
            if norm:
                qkv_BTNd = norm(ops, w, qkv_BTNd, heads)
            if hooks.rotate:  # queries and keys, side by side
                qkv_BTNd = hooks.rotate(ops, pw, qkv_BTNd, heads + kv, view.queries)
            bias = hooks.bias(ops, pw, view.queries, view.keys) if hooks.bias else None
            near = Near(hooks.near(ops, pw), view.queries, view.keys) if hooks.near else None
            sinks = w["sinks"] if self.sinks else None
            scores = Scores(self.scale, self.softcap, bias, hooks.bias_gradient, near, sinks)
            seen = view.cache(qkv_BTNd, heads) if view.cache else None
            if seen is None:
                y_BTHd = ops.self_attention(qkv_BTNd, heads, view.ranges, scores)
            else:
                y_BTHd = ops.cached_attention(qkv_BTNd[:, :, :heads], *seen, view.ranges, scores)
            y_BTD = y_BTHd.reshape(*x_BTD.shape[:2], heads * width)
            return ops.linear(y_BTD, w.linear("o_proj"))

        return forward

    def build_cross(self, dims: Dims) -> CrossFunctions:
        """The same where queries are made of one text, and keys and values of the states of another."""
        heads, kv, width = dims.heads, dims.kv_heads, dims.head_dim
        norm = self.qk_norm.build(replace(dims, d_model=width)) if self.qk_norm else None
        whole = self.qk_norm_over == "all_heads"

        def states(ops: Operations, w: WeightView, name: str, x: Tensor, count: int) -> Tensor:
            made, shape = ops.linear(x, w.linear(f"{name}_proj")), (*x.shape[:2], count, width)
            if not norm or name == "v":
                return made.reshape(shape)
            return norm(ops, w.under(f"{name}_norm"), made if whole else made.reshape(shape)).reshape(shape)

        def keys_values(ops: Operations, w: WeightView, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
            return states(ops, w, "k", x_BSD, kv), states(ops, w, "v", x_BSD, kv)

        def attend(ops: Operations, w: WeightView, x_BTD: Tensor, view: CrossView) -> Tensor:
            q_BTHd, (k_BSKd, v_BSKd) = states(ops, w, "q", x_BTD, heads), view.keys_values
            scores = Scores(self.scale, self.softcap, sinks=w["sinks"] if self.sinks else None)
            y_BTHd = ops.attention(q_BTHd, k_BSKd, v_BSKd, view.ranges, scores)
            return ops.linear(y_BTHd.reshape(*x_BTD.shape[:2], heads * width), w.linear("o_proj"))

        return CrossFunctions(keys_values, attend)
