"""Gated feed-forward block with a rectifier (Shazeer 2020, arXiv:2002.05202)."""

from typing import ClassVar, Literal

from llmspec.parts.base import ElementwiseOps
from llmspec.parts.mlps.base import GatedMLP


class ReGLU(GatedMLP):
    """down(max(0, gate(x)) · up(x))."""

    kind: Literal["reglu"] = "reglu"
    formula: ClassVar[str] = "down(max(0, gate(x)) ⊙ up(x))"
    operation: ClassVar[str] = "relu"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(2, 6)
