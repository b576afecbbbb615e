"""Plain feed-forward block with the square of a rectifier (So et al. 2021, arXiv:2109.08668)."""

from typing import ClassVar, Literal

from llmspec.parts.base import ElementwiseOps
from llmspec.parts.mlps.base import MLP


class ReLU2(MLP):
    """down(max(0, up(x))²), Primer's."""

    kind: Literal["relu2"] = "relu2"
    formula: ClassVar[str] = "down(max(0, up(x))²)"
    operation: ClassVar[str] = "relu2"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(2, 5)
