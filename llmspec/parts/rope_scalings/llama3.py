"""Slow pairs are slowed down, fast ones stay (Llama 3.1; Grattafiori et al. 2024, arXiv:2407.21783)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.rope_scalings.base import RopeScaling, plain_frequencies

if TYPE_CHECKING:
    import numpy as np


class Llama3(RopeScaling):
    """Pairs with long wavelengths turn `factor` times slower, those with short ones as before, and between both a
    mixture (Grattafiori et al. 2024)."""

    kind: Literal["llama3"] = "llama3"
    formula: ClassVar[str] = (
        "frequency_i = θ^(−2i/d)·(s + (1 − s)/factor),  s = (original/wavelength_i − low)/(high − low) within 0 … 1"
    )
    in_float64: ClassVar[tuple[str, ...]] = ("factor", "low_freq_factor", "high_freq_factor")
    low_freq_factor: float = Field(1.0, gt=0, le=1 << 20)
    """Pairs that turn less often than this in `original_context` tokens are slowed down fully."""
    high_freq_factor: float = Field(4.0, gt=0, le=1 << 20)
    """Pairs that turn more often than this in `original_context` tokens stay as they are."""
    original_context: int = Field(8192, gt=0, le=1 << 40)
    """The context before it was extended. Unit: tokens."""

    def check(self, width: int) -> Iterable[Problem]:
        if self.low_freq_factor >= self.high_freq_factor:
            yield Problem(
                f"low_freq_factor {self.low_freq_factor:g} is not below high_freq_factor {self.high_freq_factor:g}",
                ("low_freq_factor",),
                hint="low_freq_factor: 1 and high_freq_factor: 4 are those of Llama 3.1",
                consequence="no pair would lie between slow and fast ones",
            )

    def frequencies(self, theta: float, width: int, length: int) -> np.ndarray:
        import numpy as np

        plain = plain_frequencies(theta, width)
        turns = self.original_context * plain / (2 * math.pi)
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return np.asarray(plain * (kept + (1 - kept) / self.factor))
