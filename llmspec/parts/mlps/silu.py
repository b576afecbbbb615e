"""Plain feed-forward block with SiLU, x·sigmoid(x) (Elfwing et al. 2017, arXiv:1702.03118)."""

from typing import ClassVar, Literal

from llmspec.parts.base import ElementwiseOps
from llmspec.parts.mlps.base import MLP


class SiLU(MLP):
    """down(silu(up(x)))."""

    kind: Literal["silu"] = "silu"
    formula: ClassVar[str] = "down(silu(up(x))),  silu(z) = z / (1 + e⁻ᶻ)"
    operation: ClassVar[str] = "silu"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(5, 12)
