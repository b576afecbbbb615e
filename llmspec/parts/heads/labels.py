"""Heads whose outputs have names: the labels of a text, or of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions, outputs_layer

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Labelled(Head):
    """Logits of classes, which may have names."""

    classes: int | None = Field(None, gt=0, le=1 << 20)
    """How many there are; as many as `labels`, where those are given, and needed where they are not."""
    labels: tuple[str, ...] | None = Field(None, min_length=1)
    """Their names, in the order of the logits; without names a model gives logits, and no labels."""
    bias: bool = True
    """Whether a trained number is added to each logit."""

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, given: Any) -> Any:
        """Labels are counted where `classes` is left out."""
        if isinstance(given, dict) and isinstance(labels := given.get("labels"), list | tuple):
            counted = {} if given.get("classes") is not None else {"classes": max(1, len(labels))}
            return {**given, **counted, "labels": tuple(labels)}
        return given

    @model_validator(mode="after")
    def _named(self) -> Labelled:
        if self.classes is None:
            raise ValueError("it has neither `classes:`, how many there are, nor `labels:`, their names")
        if self.labels is not None and len(self.labels) != self.classes:
            raise ValueError(f"`classes: {self.classes}` and {len(self.labels)} labels do not fit each other")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"in `labels:`, the label `{twice}` stands twice")
        return self

    def outputs(self, dims: Dims) -> int:
        return self.classes or 0

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (*super().tensors(dims), *outputs_layer("", self.outputs(dims), dims, self.bias))

    def build(self, dims: Dims) -> HeadFunctions:
        return HeadFunctions(self.features, lambda w, embedding: w.linear(""))

    def features(self, ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
        """What the last layer reads: the states of tokens, or what stands for each sequence."""
        raise TypeError(f"{type(self).__name__} does not say what its logits are made of")
