"""Plain feed-forward block with a rectifier (Vaswani et al. 2017, section 3.3)."""

from typing import ClassVar, Literal

from llmspec.parts.base import ElementwiseOps
from llmspec.parts.mlps.base import MLP


class ReLU(MLP):
    """down(max(0, up(x))), the original transformer's."""

    kind: Literal["relu"] = "relu"
    formula: ClassVar[str] = "down(max(0, up(x)))"
    operation: ClassVar[str] = "relu"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(1, 2)
