"""How weights start."""

import math
from typing import ClassVar

from llmspec.parts.base import Dims, Init, Part, TensorSpec


class Initializer(Part):
    """Gives each tensor its starting distribution: norms one (zero where one is added to their weights), biases zero,
    the rest by `spread`."""

    effects: ClassVar[dict[str, tuple[str, str]]] = dict.fromkeys(
        ("std", "gain", "embedding"),
        ("every weight would start as 0, and all would get the same gradients", "weights would start as infinity"),
    )
    scale_residual: bool = True
    """Divide the spread of projections into the residual stream by √(2·layers) (Radford et al. 2019, section 2.3)."""

    def spread(self, tensor: TensorSpec) -> float:
        raise TypeError(f"{type(self).__name__} gives no spread")

    def init(self, tensor: TensorSpec, dims: Dims) -> Init:
        """The distribution of `tensor` at step 0."""
        if tensor.zeros or tensor.role in ("bias", "buffer"):
            return Init(distribution="zeros")
        if tensor.role == "norm":
            return Init(distribution="ones")
        shrink = math.sqrt(2 * dims.layers) if tensor.residual and self.scale_residual else 1.0
        return Init(distribution="normal", std=self.spread(tensor) / shrink)
