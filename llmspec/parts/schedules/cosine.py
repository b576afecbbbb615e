"""Half a cosine down (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts)."""

import math
from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.schedules.base import Schedule


class Cosine(Schedule):
    """Falls along half a cosine from the peak to `min_lr_ratio` times the peak."""

    kind: Literal["cosine"] = "cosine"
    formula: ClassVar[str] = "lr · (min_lr_ratio + (1 − min_lr_ratio)·(1 + cos πt)/2),  t from 0 to 1 after the warm-up"
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Rate at the last step, as a fraction of the peak."""

    def after(self, progress: float) -> float:
        return self.min_lr_ratio + (1.0 - self.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
