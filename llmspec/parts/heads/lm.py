"""Logits of the next token over the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions, outputs_layer
from llmspec.parts.ops import Linear

if TYPE_CHECKING:
    from llmspec.parts.ops import Activation, Operations, Tensor, WeightView


class LM(Head):
    """Logits over the vocabulary at every place (Radford et al. 2018, section 3.1)."""

    kind: Literal["lm"] = "lm"
    generates: ClassVar[bool] = True
    formula: ClassVar[str] = "logits = x·Wᵀ + bias, W the token embedding where tied"
    tied: bool = True
    """Whether its matrix is the token embedding (Press & Wolf 2017), which saves vocab · d_model weights."""
    bias: bool = False
    """Whether a trained number is added to each logit."""
    transform: Literal["relu", "gelu", "silu"] | None = None
    """Activation of a dense layer that stands before the logits, with a layer norm after it (Devlin et al. 2019); none
    if omitted."""

    def outputs(self, dims: Dims) -> int:
        return dims.vocab

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        d, out = dims.d_model, list[TensorSpec]()
        if self.transform:
            out += [TensorSpec("transform.weight", (d, d), "matrix"), TensorSpec("transform.bias", (d,), "bias")]
            out += [TensorSpec("transform_norm.weight", (d,), "norm"), TensorSpec("transform_norm.bias", (d,), "bias")]
        layer = outputs_layer("", dims.vocab, dims, self.bias)
        return (*out, *(layer[1:] if self.tied else layer))

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The bias, and the activation and the norm of the transform."""
        transform = ElementwiseOps(18, 32).times(dims.d_model if self.transform else 0)
        return super().elementwise(dims).plus(transform)

    def saved_for_backward(self, dims: Dims) -> float:
        return 4.0 * dims.d_model if self.transform else 0.0

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            if self.transform is None:
                return x_BTD
            dense = ops.linear(x_BTD, w.linear("transform"))
            activation: Activation = getattr(ops, self.transform)
            active = activation(dense)
            return ops.layer_norm(active, w["transform_norm.weight"], w["transform_norm.bias"], 1e-12)

        def layer(w: WeightView, embedding: Tensor | None) -> Linear:
            return w.linear("") if embedding is None else Linear(embedding, w["bias"] if self.bias else None)

        return HeadFunctions(features, layer)
