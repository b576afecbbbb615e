"""Plain feed-forward block with GELU in its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""

from typing import ClassVar, Literal

from llmspec.parts.base import ElementwiseOps
from llmspec.parts.mlps.base import MLP


class GELU(MLP):
    """down(gelu(up(x))), with the tanh approximation that GPT-2 uses."""

    kind: Literal["gelu"] = "gelu"
    formula: ClassVar[str] = "down(gelu(up(x))),  gelu(z) = z/2 · (1 + tanh(√(2/π)·(z + 0.044715·z³)))"
    activation: ClassVar[str] = "gelu"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(7.5, 13)
