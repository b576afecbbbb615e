"""Rotary positions: queries and keys turn by an angle that grows with the position (Su et al. 2021, section 3.2)."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.positions.base import Hooks, Position


class Rope(Position):
    """Rotates pairs (i, i + d/2) of each query and key, the half-split form of LLaMA and HF (Su et al. 2021)."""

    kind: Literal["rope"] = "rope"
    formula: ClassVar[str] = "each pair (x_i, x_(i+d/2)) of q and k, rotated by the angle p·θ^(−2i/d)"
    in_float64: ClassVar[tuple[str, ...]] = ("theta",)
    theta: float = Field(10_000.0, gt=1)
    """Base of the wavelengths; larger reaches further."""

    def check(self, dims: Dims) -> Iterable[Problem]:
        if dims.head_dim % 2:
            yield Problem(
                f"rope rotates pairs, and a head of {dims.head_dim} elements cannot be paired",
                ("kind",),
                hint="an even `head_dim`, or d_model and heads so that d_model / heads is even",
            )

    def tables(self, dims: Dims) -> dict[str, Any]:
        import numpy as np

        frequency = self.theta ** (-np.arange(0, dims.head_dim, 2) / dims.head_dim)
        angle = np.arange(dims.context)[:, None] * np.concatenate([frequency, frequency])[None]
        return {"cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """Two products and a sum for each number of the queries and keys."""
        return ElementwiseOps(4, 4).times((dims.heads + dims.kv_heads) * dims.head_dim)

    def table_numbers(self, dims: Dims) -> int:
        return 2 * dims.context * dims.head_dim

    def build(self, dims: Dims) -> Hooks:
        return Hooks(rotate=lambda ops, w, x_BTHd, heads, p_BT: ops.rotate(x_BTHd, heads, w["cos"], w["sin"], p_BT))
