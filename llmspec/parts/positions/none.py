"""No positions: order is known only through the causal mask (Haviv et al. 2022, arXiv:2203.16634)."""

from typing import Literal

from llmspec.parts.positions.base import Position


class NoPosition(Position):
    """No positional signal; a causal model can still infer order from what it may see."""

    kind: Literal["none"] = "none"
