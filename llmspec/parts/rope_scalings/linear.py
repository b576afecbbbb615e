"""Positions divided by a factor (Chen et al. 2023, arXiv:2306.15595, section 2.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.rope_scalings.base import RopeScaling, plain_frequencies

if TYPE_CHECKING:
    import numpy as np


class LinearScaling(RopeScaling):
    """Every position counts as position / factor (position interpolation, Chen et al. 2023)."""

    kind: Literal["linear"] = "linear"
    formula: ClassVar[str] = "frequency_i = θ^(−2i/d) / factor"

    def frequencies(self, theta: float, width: int, length: int) -> np.ndarray:
        return plain_frequencies(theta, width) / self.factor
