"""The one form of every position kind: three optional hooks, so that no kind edits attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from llmspec.parts.base import Dims, ModelPart

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


STRETCH = 1024
"""Positions whose rows of tables are made at once, from a multiple of it on: so a row's bits hang on nothing else."""


class Hooks(NamedTuple):
    """What a position part does, each None where it does nothing. `p_BT` holds each token's position.

    embed(ops, w, x_BTD, p_BT) -> x_BTD             added to the token embedding
    rotate(ops, w, x_BTHd, heads, p_BT) -> x_BTHd   turns the first heads: queries and keys
    bias(ops, w, p_BT, p_BS) -> (B or 1, H, T, S)   added to the attention scores
    near(ops, w) -> (H, 2R - 1)                     added to them by distance (llmspec.parts.ops.Near), R the context
    """

    embed: Callable[[Operations, WeightView, Tensor, Tensor], Tensor] | None = None
    rotate: Callable[[Operations, WeightView, Tensor, int, Tensor], Tensor] | None = None
    bias: Callable[[Operations, WeightView, Tensor, Tensor], Tensor] | None = None
    bias_gradient: bool = False
    """Whether gradients flow into that bias."""
    near: Callable[[Operations, WeightView], Tensor] | None = None


class Position(ModelPart):
    """How a model knows where a token stands. Costs are those of one use: of the embedding, or of one layer."""

    embeds: ClassVar[bool] = False
    """Whether it is added to the embedding, once; otherwise every layer uses it."""

    by_direction: ClassVar[bool] = False
    """Whether blocks whose tokens see later ones have weights and tables of their own."""

    def tables(self, dims: Dims) -> dict[str, Any]:
        """Constant float32 arrays by name, never trained; `w[name]` in the hooks."""
        return self.table_rows(dims, 0, dims.context)

    def table_rows(self, dims: Dims, begin: int, end: int) -> dict[str, Any]:
        """Rows begin … end - 1 of those arrays, where all have one for each position; `begin` is a multiple of STRETCH.
        Nothing where it has other arrays, or none."""
        return {}

    def table_numbers(self, dims: Dims) -> int:
        """How many numbers those arrays hold, known without making them."""
        return 0

    def follows_length(self, dims: Dims) -> bool:
        """Whether what it does to a token hangs on how many tokens are read with it; then a text that a cache holds
        is not the same as one that is read anew."""
        return False

    def build(self, dims: Dims) -> Hooks:
        return Hooks()
