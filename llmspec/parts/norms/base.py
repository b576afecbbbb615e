"""What every norm has: where it stands and its epsilon."""

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, ModelPart, Pointwise


class Norm(ModelPart):
    """Normalises each token's vector. build(dims) -> f(ops, w, x_BTD) -> x_BTD."""

    per_number: ClassVar[Pointwise]
    """Operations for each number, the sum with the residual stream included."""
    placement: Literal["pre", "post"] = "pre"
    """pre: x + f(norm(x)), with one more norm before the head; post: norm(x + f(x)), as in Vaswani et al. 2017."""
    eps: float = Field(1e-5, gt=0)
    """Added to the variance, so that a constant vector does not divide by zero."""

    def pointwise(self, dims: Dims) -> Pointwise:
        return self.per_number.times(dims.d_model)

    def kept(self, dims: Dims) -> float:
        """What it gives, and the sum that it is taken of."""
        return 2.0 * dims.d_model
