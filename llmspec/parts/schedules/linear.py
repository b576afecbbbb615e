"""A straight line down."""

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.schedules.base import Schedule


class Linear(Schedule):
    """Falls in a straight line from the peak to `min_lr_ratio` times the peak."""

    kind: Literal["linear"] = "linear"
    formula: ClassVar[str] = "lr · (1 − (1 − min_lr_ratio)·t),  t from 0 to 1 after the warm-up"
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Rate at the last step, as a fraction of the peak."""

    def after(self, progress: float) -> float:
        return 1.0 - (1.0 - self.min_lr_ratio) * progress
