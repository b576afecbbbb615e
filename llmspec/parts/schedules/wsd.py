"""Warm-up, stable, decay (Hu et al. 2024, MiniCPM, arXiv:2404.06395, section 4)."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.core.units import Share
from llmspec.parts.schedules.base import Schedule


class WSD(Schedule):
    """The peak rate, then a straight fall to `min_lr_ratio` times the peak over the last `decay` of the steps."""

    kind: Literal["wsd"] = "wsd"
    formula: ClassVar[str] = "lr, then a straight fall to min_lr_ratio·lr over the last `decay` of the steps"
    decay: Share = Share(20.0)
    """Share of the steps after the warm-up that fall."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Rate at the last step, as a fraction of the peak."""

    @field_validator("decay")
    @classmethod
    def _part_of_the_steps(cls, decay: Share) -> Share:
        if decay.percent > 100:
            raise ValueError(f"a phase has no {decay} of its steps; at most `100%` of them can fall")
        return decay

    def after(self, progress: float) -> float:
        start = 1.0 - self.decay.fraction
        if progress <= start:
            return 1.0
        return 1.0 - (1.0 - self.min_lr_ratio) * (progress - start) / (1.0 - start)
