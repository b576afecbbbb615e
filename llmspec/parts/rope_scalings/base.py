"""How rotary positions are stretched: other frequencies for the pairs of a head, and a factor on what is turned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Part

if TYPE_CHECKING:
    import numpy as np


def plain_frequencies(theta: float, width: int) -> np.ndarray:
    """Radians by which each of width / 2 pairs turns from a position to the next: θ^(−2i/width), float64."""
    import numpy as np

    return np.asarray(theta ** (-np.arange(0, width, 2) / width), np.float64)


class RopeScaling(Part):
    """Changes the frequencies of rotary positions, so that a model reads further than it was trained to."""

    in_float64: ClassVar[tuple[str, ...]] = ("factor",)
    factor: float = Field(ge=1, le=1 << 20)
    """How many times longer the context becomes."""

    def check(self, width: int) -> Iterable[Problem]:
        """What is wrong where `width` numbers of a head turn."""
        return ()

    def frequencies(self, theta: float, width: int, length: int) -> np.ndarray:
        """Radians a position of each of width / 2 pairs, float64, in a text of `length` tokens."""
        raise TypeError(f"{type(self).__name__} does not say its frequencies")

    def magnitude(self) -> float:
        """What cosines and sines are multiplied with."""
        return 1.0

    def fixed_up_to(self) -> int | None:
        """Up to how many tokens a text has the same frequencies as shorter ones; None: any number."""
        return None
