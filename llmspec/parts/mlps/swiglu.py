"""Gated feed-forward block with SiLU, as in LLaMA (Shazeer 2020, arXiv:2002.05202)."""

from typing import ClassVar, Literal

from llmspec.parts.base import ElementwiseOps
from llmspec.parts.mlps.base import GatedMLP


class SwiGLU(GatedMLP):
    """down(silu(gate(x)) · up(x)), LLaMA's."""

    kind: Literal["swiglu"] = "swiglu"
    formula: ClassVar[str] = "down(silu(gate(x)) ⊙ up(x)),  silu(z) = z / (1 + e⁻ᶻ)"
    operation: ClassVar[str] = "silu"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(6, 18.5)
