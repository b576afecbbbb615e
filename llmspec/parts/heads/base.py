"""What a network ends in: from the last hidden states to what an objective or a user reads.

Shape letters: B sequences, T tokens, D width, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from llmspec.parts.base import Dims, ElementwiseOps, ModelPart, TensorSpec

if TYPE_CHECKING:
    from llmspec.parts.ops import Linear, Operations, Tensor, WeightView


class HeadFunctions(NamedTuple):
    """A head in two steps, so that an objective may join the last layer with its loss.

    features(ops, w, x_BTD, filled_BT) -> (B, T, D), or (B, D) where the head says one thing a sequence; `filled_BT`
    tells tokens from padding (bool), None where there is no padding.
    layer(w, embedding) -> Linear that makes outputs of features, or None where the features are the result;
    `embedding` (V, D) is the token embedding of a head that says `tied`, as a layer without a bias; None of any other.
    softcap: the largest size of an output, softcap·tanh(output / softcap); None for no bound.
    """

    features: Callable[[Operations, WeightView, Tensor, Tensor | None], Tensor]
    layer: Callable[[WeightView, Linear | None], Linear | None]
    softcap: float | None = None


class Head(ModelPart):
    """What is read off the last hidden states. build(dims) -> HeadFunctions."""

    generates: ClassVar[bool] = False
    """Whether its outputs are logits of the next token, which text can be drawn from."""
    embeds: ClassVar[bool] = False
    """Whether it gives a vector to compare texts by."""
    per_sequence: ClassVar[bool] = False
    """Whether it says one thing a sequence, and not one a token."""

    def outputs(self, dims: Dims) -> int:
        """How many numbers it gives, for each token or sequence."""
        raise TypeError(f"{type(self).__name__} does not say how many numbers it gives")

    def build(self, dims: Dims) -> HeadFunctions:
        raise TypeError(f"{type(self).__name__} builds nothing")

    def flops(self, dims: Dims) -> float:
        """Of its last layer, tied or not, and of what stands before it."""
        inner = sum(t.shape[0] * t.shape[1] for t in self.tensors(dims) if t.role == "matrix")
        last = self.outputs(dims) * dims.d_model if self.has_layer else 0
        return 2.0 * (inner + last) / (dims.context if self.per_sequence else 1)

    @property
    def has_layer(self) -> bool:
        """Whether a linear layer makes its outputs."""
        return True

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """Its biases."""
        return ElementwiseOps(1, 1).times(sum(t.shape[0] for t in self.tensors(dims) if t.role == "bias"))


def outputs_layer(name: str, outputs: int, dims: Dims, bias: bool) -> tuple[TensorSpec, ...]:
    """The tensors of a linear layer from the width to some outputs."""
    weight = TensorSpec(f"{name}weight", (outputs, dims.d_model), "head")
    return (weight, TensorSpec(f"{name}bias", (outputs,), "bias")) if bias else (weight,)
