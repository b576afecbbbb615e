"""Plain feed-forward block with GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""

from typing import ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.mlps.base import MLP

Approximate = Literal["tanh", "none"]
OPERATIONS: dict[Approximate, str] = {"tanh": "gelu", "none": "gelu_erf"}
"""The operation that each form of GELU is."""
EXACT = ElementwiseOps(18, 29)
"""What the exact form takes more, in plain operations."""


class GELU(MLP):
    """down(gelu(up(x))), with GPT-2's approximation of GELU or exactly, as in BERT."""

    kind: Literal["gelu"] = "gelu"
    formula: ClassVar[str] = (
        "down(gelu(up(x))),  gelu(z) = z/2 · (1 + tanh(√(2/π)·(z + 0.044715·z³))), or z/2 · (1 + erf(z/√2))"
    )
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(7.5, 13)
    approximate: Approximate = "tanh"
    """How GELU is computed: `tanh` approximates it, `none` is exact, both as in PyTorch."""

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        more = EXACT.times((self.d_ff or 0) if self.approximate == "none" else 0)
        return super().elementwise(dims).plus(more)

    @property
    def activation(self) -> str:
        return OPERATIONS[self.approximate]
