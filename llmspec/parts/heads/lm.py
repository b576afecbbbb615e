"""Logits of the next token over the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.core.problems import Problem
from llmspec.parts.attentions.base import SOFTCAP
from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions, outputs_layer
from llmspec.parts.heads.transform import Transform

if TYPE_CHECKING:
    from llmspec.parts.ops import Linear, Operations, Tensor, WeightView


class LM(Head):
    """Logits over the vocabulary at every place (Radford et al. 2018, section 3.1)."""

    kind: Literal["lm"] = "lm"
    generates: ClassVar[bool] = True
    formula: ClassVar[str] = "logits = softcap(scale · transform(x)·Wᵀ + bias), W the token embedding where tied"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "scale": ("all tokens would be equally likely", "logits would be infinite or NaN"),
        "softcap": ("logits would be divided by 0 and become NaN", "nothing would be bounded, and logits become NaN"),
    }
    tied: bool = True
    """Whether its matrix is the token embedding (Press & Wolf 2017), which saves vocab · d_model weights."""
    bias: bool = False
    """Whether a trained number is added to each logit."""
    scale: float = Field(1.0, gt=0)
    """Factor on what the last layer reads, such as 1/√d_model beside a tied embedding (Raffel et al. 2020)."""
    softcap: float | None = Field(None, gt=0)
    """Largest size of a logit: softcap·tanh(logit / softcap) (Gemma Team 2024, section 2); unlimited if omitted."""
    transform: Transform | None = None
    """A dense layer before the last one (Devlin et al. 2019); none if omitted."""

    @field_validator("transform", mode="before")
    @classmethod
    def named(cls, value: Any) -> Any:
        """Plans of earlier versions hold the activation's name alone, and mean a norm after it."""
        named = isinstance(value, str)
        return {"activation": value, "norm": {"kind": "layernorm", "eps": 1e-12}} if named else value

    def check(self, dims: Dims) -> Iterable[Problem]:
        return (p.at("transform") for p in (self.transform.check() if self.transform else ()))

    def outputs(self, dims: Dims) -> int:
        return dims.vocab

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        before = self.transform.tensors(dims) if self.transform else ()
        layer = outputs_layer("", dims.vocab, dims, self.bias)
        return (*before, *(layer[1:] if self.tied else layer))

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The bias, the scale, the softcap and the transform."""
        scaled = ElementwiseOps(1, 1).times(dims.d_model if self.scale != 1 else 0)
        capped = SOFTCAP.times(dims.vocab if self.softcap else 0)
        transform = self.transform.elementwise(dims) if self.transform else ElementwiseOps()
        return super().elementwise(dims).plus(scaled, capped, transform)

    def saved_for_backward(self, dims: Dims) -> float:
        return self.transform.saved_for_backward(dims) if self.transform else 0.0

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            y_BTD = self.transform.apply(ops, w, x_BTD, dims) if self.transform else x_BTD
            return y_BTD if self.scale == 1 else y_BTD * self.scale

        def layer(w: WeightView, embedding: Linear | None) -> Linear:
            return w.linear("") if embedding is None else embedding._replace(bias=w["bias"] if self.bias else None)

        return HeadFunctions(features, layer, self.softcap)
