"""The two shapes of feed-forward block: plain (up, activation, down) and gated (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llmspec.parts.base import Default, Dims, ElementwiseOps, ModelPart, TensorSpec
from llmspec.parts.ops import Activation, Layer, Operations, WeightView

if TYPE_CHECKING:
    from llmspec.parts.ops import Tensor


class FeedForward(ModelPart):
    """What stands beside attention in a block. build(dims) -> f(ops, w, x_BTD) -> x_BTD."""

    routes: ClassVar[bool] = False
    """Whether a router chooses among layers, none of which routes again."""


class MLP(FeedForward):
    """down(act(up(x)))."""

    operation: ClassVar[str]
    """The activation, by its name among the operations, unless settings choose among several."""
    per_number: ClassVar[ElementwiseOps]
    """Operations of the activation, and of the gate where there is one, for each number of the hidden layer."""
    d_ff: int | None = Field(None, gt=0, le=1 << 24)
    """Width of the hidden layer; 4·d_model (plain) or 8/3·d_model rounded up to 32 (gated) if omitted."""
    bias: bool = False
    """Whether the projections add a bias."""

    @property
    def activation(self) -> str:
        """The operation on each number of the hidden layer, or of its gate, by its name among the operations."""
        return self.operation

    def defaults(self, dims: Dims) -> dict[str, Default]:
        return {"d_ff": Default(4 * dims.d_model, "4·d_model, as in Vaswani et al. 2017")}

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The activation, the gate and biases."""
        biases = sum(t.shape[0] for t in self.tensors(dims) if t.role == "bias")
        return self.per_number.times(self.d_ff or 0).plus(ElementwiseOps(1, 1).times(biases))

    def saved_for_backward(self, dims: Dims) -> float:
        """The projections' outputs and the hidden layer."""
        return float(len(self.projections(dims)) * (self.d_ff or 0))

    def dropped(self, dims: Dims) -> float:
        """The hidden layer."""
        return float(self.d_ff or 0)

    def projections(self, dims: Dims) -> dict[str, tuple[int, int]]:
        width = self.d_ff or 0
        return {"up_proj": (width, dims.d_model), "down_proj": (dims.d_model, width)}

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        out: list[TensorSpec] = []
        for name, shape in self.projections(dims).items():
            out.append(TensorSpec(f"{name}.weight", shape, "matrix", residual=name == "down_proj"))
            if self.bias:
                out.append(TensorSpec(f"{name}.bias", shape[:1], "bias"))
        return tuple(out)

    def build(self, dims: Dims) -> Layer:
        def forward(ops: Operations, w: WeightView, x_BTD: Tensor) -> Tensor:
            activation: Activation = getattr(ops, self.activation)
            hidden = ops.dropout(activation(ops.linear(x_BTD, w.linear("up_proj"))), "mlp")
            return ops.linear(hidden, w.linear("down_proj"))

        def gated(ops: Operations, w: WeightView, x_BTD: Tensor) -> Tensor:
            both = ops.linears(x_BTD, [w.linear("gate_proj"), w.linear("up_proj")])
            return ops.linear(ops.dropout(ops.gated(self.activation, both), "mlp"), w.linear("down_proj"))

        return gated if "gate_proj" in self.projections(dims) else forward


class GatedMLP(MLP):
    """down(act(gate(x)) · up(x)) (Shazeer 2020)."""

    def defaults(self, dims: Dims) -> dict[str, Default]:
        width = -(-8 * dims.d_model // 3 // 32) * 32
        return {"d_ff": Default(width, "8/3·d_model rounded up to 32: as many weights as a plain block of 4·d_model")}

    def projections(self, dims: Dims) -> dict[str, tuple[int, int]]:
        return {"gate_proj": (self.d_ff or 0, dims.d_model), **super().projections(dims)}
