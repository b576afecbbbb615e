"""A penalty on the scores that grows with the distance (Press et al. 2022, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.positions.base import Hooks, Position

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


def slopes(heads: int) -> list[float]:
    """The slope of each head: 2^(-8/n), 2^(-16/n) … for a power of two, interleaved from the next one otherwise."""
    power = 1 << (heads.bit_length() - 1)
    out = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    more = [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return out + more[: heads - power]


class Alibi(Position):
    """Linear penalty on attention scores by distance, one slope a head (Press et al. 2022)."""

    kind: Literal["alibi"] = "alibi"
    formula: ClassVar[str] = "score − slope_h · (p_query − p_key),  slope_h = 2^(−8h/H)"

    def tables(self, dims: Dims) -> dict[str, Any]:
        import numpy as np

        return {"slopes": np.array(slopes(dims.heads), np.float32)}

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The penalty of each score."""
        return ElementwiseOps(4, 1).times(dims.heads * dims.seen)

    def table_numbers(self, dims: Dims) -> int:
        return dims.heads

    def build(self, dims: Dims) -> Hooks:
        def bias(ops: Operations, w: WeightView, p_BT: Tensor, p_BS: Tensor) -> Tensor:
            distance_BTS = (p_BT.unsqueeze(-1) - p_BS.unsqueeze(-2)).cast(w["slopes"].dtype)
            return -w["slopes"].reshape(1, -1, 1, 1) * distance_BTS.unsqueeze(1)

        return Hooks(bias=bias)
