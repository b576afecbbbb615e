"""A dense layer before the logits (Devlin et al. 2019, arXiv:1810.04805; google-research/bert, run_pretraining.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from llmspec.core.problems import Problem
from llmspec.core.table import choice
from llmspec.parts import norms
from llmspec.parts.base import Dims, ElementwiseOps, Frozen, TensorSpec
from llmspec.parts.mlps.gelu import OPERATIONS, Approximate

if TYPE_CHECKING:
    from llmspec.parts.ops import Activation, Operations, Tensor, WeightView

PER_NUMBER = ElementwiseOps(9, 14)
"""Operations of the activation."""


class Transform(Frozen):
    """norm(activation(x·Wᵀ + bias))."""

    activation: Literal["relu", "relu2", "gelu", "silu"] = "gelu"
    """What the layer's outputs pass through."""
    approximate: Approximate = "tanh"
    """How GELU is computed: `tanh` approximates it, `none` is exact, both as in PyTorch."""
    bias: bool = True
    """Whether the layer adds a bias."""
    norm: Annotated[norms.Norm, choice(norms.TABLE, "layernorm")] | None = None
    """Norm of what comes out; none where left open."""

    def check(self) -> Iterable[Problem]:
        """What is wrong with one setting beside another."""
        if self.activation != "gelu" and self.approximate != "tanh":
            yield Problem(
                f"`approximate` says how GELU is computed, and the activation is {self.activation}",
                ("approximate",),
                "leave it out, or `activation: gelu`",
                "it would be ignored",
            )

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        d, found = dims.d_model, list[TensorSpec]()
        found.append(TensorSpec("transform.weight", (d, d), "matrix"))
        if self.bias:
            found.append(TensorSpec("transform.bias", (d,), "bias"))
        if self.norm is not None:
            found += [t._replace(name=f"transform_norm.{t.name}") for t in self.norm.tensors(dims)]
        return tuple(found)

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The activation and the norm."""
        normed = ElementwiseOps() if self.norm is None else self.norm.elementwise(dims)
        return PER_NUMBER.times(dims.d_model).plus(normed)

    def saved_for_backward(self, dims: Dims) -> float:
        """What the layer gives, and what comes of it."""
        return 2.0 * dims.d_model + (0.0 if self.norm is None else self.norm.saved_for_backward(dims))

    def apply(self, ops: Operations, w: WeightView, x_BTD: Tensor, dims: Dims) -> Tensor:
        """What stands before the last layer, of hidden states; `w` are the head's weights."""
        name = OPERATIONS[self.approximate] if self.activation == "gelu" else self.activation
        activation: Activation = getattr(ops, name)
        y_BTD = activation(ops.linear(x_BTD, w.linear("transform")))
        return y_BTD if self.norm is None else self.norm.build(dims)(ops, w.under("transform_norm"), y_BTD)
