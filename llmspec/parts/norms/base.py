"""What every norm has: where it stands and its epsilon."""

from typing import Literal

from pydantic import Field

from llmspec.parts.base import ModelPart


class Norm(ModelPart):
    """Normalises each token's vector. build(dims) -> f(ops, w, x_BTD) -> x_BTD."""

    placement: Literal["pre", "post"] = "pre"
    """pre: x + f(norm(x)), with one more norm before the head; post: norm(x + f(x)), as in Vaswani et al. 2017."""
    eps: float = Field(1e-5, gt=0)
    """Added to the variance, so that a constant vector does not divide by zero."""
