"""What an adapter is: tensors of its own beside linear layers whose weights stay as they are.

Shape letters: O outputs, I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from llmspec.parts.base import Init, Part, TensorSpec

if TYPE_CHECKING:
    from llmspec.parts.ops import Adapted, WeightView


class AdapterTensor(NamedTuple):
    """A tensor beside a layer: its name relative to the layer, what it is, and how it starts."""

    spec: TensorSpec
    init: Init


class Adapter(Part):
    """Adapts linear layers of the model that a phase starts from. The model's own weights stay as they are; what the
    phase leaves are the adapter's tensors, which know by a hash which model they belong to."""

    targets: tuple[str, ...] = Field(("layers.*",), min_length=1)
    """Patterns of the layers that are adapted: the end of a name from a dot on, such as `q_proj` or `attention.*`, or
    the whole name. If omitted, all linear layers of the blocks."""

    def adapts(self, layer: str) -> bool:
        """Whether a layer, by its full name, is adapted."""
        return any(matches(layer, pattern) for pattern in self.targets)

    def tensors(self, outputs: int, inputs: int, residual: bool) -> tuple[AdapterTensor, ...]:
        """The tensors beside a layer (O, I), which writes into the residual stream or does not."""
        raise TypeError(f"{type(self).__name__} does not say what tensors it has")

    def beside(self, layer: str, weight: TensorSpec) -> tuple[AdapterTensor, ...]:
        """The tensors beside a layer, by its full name, of whose weight this is the tensor; none where it is not
        adapted."""
        if not (is_layer(weight) and self.adapts(layer)):
            return ()
        return self.tensors(weight.shape[0], weight.shape[1], weight.residual)

    def owns(self, name: str) -> bool:
        """Whether a tensor, by its full name, is one of an adapter's."""
        return name.endswith(tuple(f".{t.spec.name}" for t in self.tensors(1, 1, False)))

    def among(self, weight: str, tensors: Container[str]) -> bool:
        """Whether the layer of a weight, by its full name, has an adapter among these tensors."""
        first = self.tensors(1, 1, False)[0].spec.name
        return f"{weight.removesuffix('weight')}{first}" in tensors

    def off(self, held: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of the tensors of a model, numpy arrays by their full names, those with which its layers are what they would
        be without the adapter."""
        raise NotImplementedError

    def fitted(self, weight_OI: Any) -> Mapping[str, Any]:
        """Tensors that start as the layer's weight says, by their names: numpy arrays."""
        return {}

    @property
    def drops(self) -> bool:
        """Whether training drops numbers of what it reads."""
        return False

    def dropped(self, outputs: int, inputs: int) -> int:
        """How many numbers of what a layer (O, I) reads training drops some of, for each token."""
        return 0

    def undropped(self) -> Adapter:
        """The same one as it is in validation, where nothing is dropped."""
        return self

    def build(self, w: WeightView) -> Adapted:
        """What is done to a layer's results, of the layer's tensors."""
        raise TypeError(f"{type(self).__name__} builds nothing")

    def merged(self, weight_OI: Any, own: Mapping[str, Any]) -> Any:
        """The weight of a layer that does what the layer and its adapter do: (O, I) float32, computed in float64."""
        raise TypeError(f"{type(self).__name__} cannot be merged")


def is_layer(tensor: TensorSpec) -> bool:
    """Whether a tensor is the weight (O, I) of one linear layer."""
    return tensor.role == "matrix" and len(tensor.shape) == 2 and tensor.name.endswith("weight")


def matches(layer: str, pattern: str) -> bool:
    """Whether a pattern means a layer: its whole name, or the end of it from a dot on."""
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"*.{pattern}")
