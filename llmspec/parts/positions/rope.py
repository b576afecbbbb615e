"""Rotary positions: queries and keys turn by an angle that grows with the position (Su et al. 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.core.table import choice
from llmspec.parts import rope_scalings
from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.positions.base import STRETCH, Hooks, Position
from llmspec.parts.rope_scalings.base import plain_frequencies

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Rope(Position):
    """Rotates pairs of numbers of each query and key: (i, i + d/2), the half-split form of LLaMA and HF, or neighbours
    (Su et al. 2021)."""

    kind: Literal["rope"] = "rope"
    formula: ClassVar[str] = "each pair (x_i, x_(i+d/2)) of q and k, rotated by the angle p·θ^(−2i/d)"
    in_float64: ClassVar[tuple[str, ...]] = ("theta", "fraction")
    theta: float = Field(10_000.0, gt=1)
    """Base of the wavelengths; larger reaches further."""
    fraction: float = Field(1.0, gt=0, le=1)
    """Share of a head that turns, its first numbers; the others stay as they are (GPT-NeoX, Phi)."""
    interleaved: bool = False
    """Whether pairs are neighbours, (2i, 2i + 1), as in the paper and in GPT-J."""
    scaling: Annotated[rope_scalings.RopeScaling, choice(rope_scalings.TABLE)] | None = None
    """How frequencies change for contexts longer than those of training; they do not if omitted."""

    def width(self, dims: Dims) -> int:
        """How many numbers of a head turn."""
        return int(dims.head_dim * self.fraction)

    def check(self, dims: Dims) -> Iterable[Problem]:
        width = self.width(dims)
        if self.fraction < 1 and (width % 2 or not width):
            fits = [n / dims.head_dim for n in range(2, dims.head_dim + 1, 2)]
            near = min(fits, key=lambda f: abs(f - self.fraction), default=1.0)
            yield Problem(
                f"rope rotates pairs, and {self.fraction:g} of a head of {dims.head_dim} are {width} numbers",
                ("fraction",),
                hint=f"fraction: {near:.6g}",
            )
        elif dims.head_dim % 2 and self.fraction == 1:
            yield Problem(
                f"rope rotates pairs, and a head of {dims.head_dim} elements cannot be paired",
                ("kind",),
                hint="an even `head_dim`, or d_model and heads so that d_model / heads is even",
            )
        elif self.scaling is not None:
            yield from (p.at("scaling") for p in self.scaling.check(width))

    def _growing(self, dims: Dims) -> int | None:
        """Beyond how many tokens a text's frequencies hang on its length; None where the context is not so long."""
        fixed = None if self.scaling is None else self.scaling.fixed_up_to()
        return fixed if fixed is not None and fixed < dims.context else None

    def follows_length(self, dims: Dims) -> bool:
        return self._growing(dims) is not None

    def _frequencies(self, dims: Dims, length: int) -> Any:
        """Radians a position of each number that turns, float64, in a text of so many tokens."""
        import numpy as np

        width = self.width(dims)
        scaling = self.scaling
        own = scaling.frequencies(self.theta, width, length) if scaling else plain_frequencies(self.theta, width)
        return np.repeat(own, 2) if self.interleaved else np.concatenate([own, own])

    def tables(self, dims: Dims) -> dict[str, Any]:
        """Cosines and sines of each position (context, width); or, where they follow a text's length, frequencies of
        each length from the last one on that changes nothing (lengths, width)."""
        import numpy as np

        if (shortest := self._growing(dims)) is None:
            return super().tables(dims)
        lengths = range(shortest, dims.context + 1)
        return {"frequencies": np.stack([self._frequencies(dims, n) for n in lengths]).astype(np.float32)}

    def table_rows(self, dims: Dims, begin: int, end: int) -> dict[str, Any]:
        import numpy as np

        if self._growing(dims) is not None:
            return {}
        frequencies, factor = (
            self._frequencies(dims, 0)[None],
            1.0 if self.scaling is None else self.scaling.magnitude(),
        )
        found = {name: np.empty((end - begin, frequencies.size), np.float32) for name in ("cos", "sin")}
        for first in range(begin, end, STRETCH):  # float64 of all would be many times the tables
            angle = np.arange(first, min(first + STRETCH, end))[:, None] * frequencies
            rows = slice(first - begin, first - begin + len(angle))
            found["cos"][rows], found["sin"][rows] = factor * np.cos(angle), factor * np.sin(angle)
        return found

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """Two products and a sum for each number of the queries and keys that turns."""
        return ElementwiseOps(4, 4).times((dims.heads + dims.kv_heads) * self.width(dims))

    def table_numbers(self, dims: Dims) -> int:
        shortest = self._growing(dims)
        rows = 2 * dims.context if shortest is None else dims.context - shortest + 1
        return rows * self.width(dims)

    def build(self, dims: Dims) -> Hooks:
        pairs, shortest = self.interleaved, self._growing(dims)

        def rotate(ops: Operations, w: WeightView, x_BTHd: Tensor, heads: int, p_BT: Tensor) -> Tensor:
            return ops.rotate(x_BTHd, heads, w["cos"], w["sin"], p_BT, interleaved=pairs)

        if shortest is None:
            return Hooks(rotate=rotate)
        factor = 1.0 if self.scaling is None else self.scaling.magnitude()

        def rotate_by_length(ops: Operations, w: WeightView, x_BTHd: Tensor, heads: int, p_BT: Tensor) -> Tensor:
            lengths_BT = text_lengths(p_BT)
            frequency_BTw = ops.rows(w["frequencies"], (lengths_BT - shortest).maximum(0))
            angle_Nw = (p_BT.unsqueeze(-1) * frequency_BTw).reshape(-1, frequency_BTw.shape[-1])
            cos, sin = ((factor * turn).contiguous() for turn in (angle_Nw.cos(), angle_Nw.sin()))
            place_BT = p_BT.ones_like().reshape(-1).cumsum(0).reshape(p_BT.shape) - 1
            return ops.rotate(x_BTHd, heads, cos, sin, place_BT, interleaved=pairs)

        return Hooks(rotate=rotate_by_length)


def text_lengths(p_BT: Tensor) -> Tensor:
    """Of each token, how many tokens its text has up to the last one that is read; texts begin at position 0."""
    text_BT = (p_BT == 0).cumsum(1)
    same_BTT = text_BT.unsqueeze(2) == text_BT.unsqueeze(1)
    return same_BTT.where(p_BT.unsqueeze(1), 0).max(2) + 1
