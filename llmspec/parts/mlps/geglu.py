"""Gated feed-forward block with GELU (Shazeer 2020, arXiv:2002.05202)."""

from typing import ClassVar, Literal

from llmspec.parts.base import ElementwiseOps
from llmspec.parts.mlps.base import GatedMLP


class GeGLU(GatedMLP):
    """down(gelu(gate(x)) · up(x)), with the tanh approximation of GELU."""

    kind: Literal["geglu"] = "geglu"
    formula: ClassVar[str] = "down(gelu(gate(x)) ⊙ up(x)),  gelu(z) = z/2 · (1 + tanh(√(2/π)·(z + 0.044715·z³)))"
    activation: ClassVar[str] = "gelu"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(10, 30.5)
