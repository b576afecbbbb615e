"""Gated feed-forward block with SiLU, as in LLaMA (Shazeer 2020, arXiv:2002.05202)."""

from typing import ClassVar, Literal

from llmspec.parts.base import Pointwise
from llmspec.parts.mlps.base import GatedMLP


class SwiGLU(GatedMLP):
    """down(silu(gate(x)) · up(x)), LLaMA's."""

    kind: Literal["swiglu"] = "swiglu"
    activation: ClassVar[str] = "silu"
    per_number: ClassVar[Pointwise] = Pointwise(6, 18.5)
