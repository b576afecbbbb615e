"""Fixed sines and cosines added to the token embedding (Vaswani et al. 2017, section 3.5)."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.positions.base import Hooks, Position


class Sinusoidal(Position):
    """Fixed sines and cosines of geometrically growing wavelengths (Vaswani et al. 2017, section 3.5)."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    embeds: ClassVar[bool] = True
    formula: ClassVar[str] = "x + (sin(p/θ^(2i/D)), cos(p/θ^(2i/D)), …)"
    in_float64: ClassVar[tuple[str, ...]] = ("theta",)
    theta: float = Field(10_000.0, gt=1)
    """Base of the wavelengths."""

    def tables(self, dims: Dims) -> dict[str, Any]:
        import numpy as np

        p, i = np.arange(dims.context)[:, None], np.arange(0, dims.d_model, 2)[None]
        angle = p / self.theta ** (i / dims.d_model)
        table = np.zeros((dims.context, dims.d_model), np.float32)
        table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)[:, : dims.d_model // 2]
        return {"table": table}

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        return ElementwiseOps(1, 0).times(dims.d_model)

    def table_numbers(self, dims: Dims) -> int:
        return dims.context * dims.d_model

    def build(self, dims: Dims) -> Hooks:
        return Hooks(embed=lambda ops, w, x_BTD, p_BT: x_BTD + ops.rows(w["table"], p_BT))
