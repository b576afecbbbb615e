"""Gated feed-forward block with GELU (Shazeer 2020, arXiv:2002.05202)."""

from typing import ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.mlps.base import GatedMLP
from llmspec.parts.mlps.gelu import EXACT, OPERATIONS, Approximate


class GeGLU(GatedMLP):
    """down(gelu(gate(x)) · up(x)), with the tanh approximation of GELU or exactly."""

    kind: Literal["geglu"] = "geglu"
    formula: ClassVar[str] = (
        "down(gelu(gate(x)) ⊙ up(x)),  gelu(z) = z/2 · (1 + tanh(√(2/π)·(z + 0.044715·z³))), or z/2 · (1 + erf(z/√2))"
    )
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(10, 30.5)
    approximate: Approximate = "tanh"
    """How GELU is computed: `tanh` approximates it, `none` is exact, both as in PyTorch."""

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        more = EXACT._replace(backward=2 * EXACT.backward)  # which the gate's and the other gradient each compute
        return super().elementwise(dims).plus(more.times((self.d_ff or 0) if self.approximate == "none" else 0))

    @property
    def activation(self) -> str:
        return OPERATIONS[self.approximate]
