"""Learning-rate schedules: a factor on the peak rate, a pure function of the step."""

from __future__ import annotations

from math import ceil
from typing import Any, ClassVar

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.core.units import Budget, Share, Text
from llmspec.parts.base import Part


class Span(Text):
    """A part of the phase: `5%` of its steps, or `100 steps`."""

    examples: ClassVar[tuple[str, ...]] = ("5%", "100 steps")

    def __init__(self, value: Share | Budget) -> None:
        self.value = value

    @classmethod
    def parse(cls, value: object) -> Span:
        if str(value).strip() == "0":
            return cls(Share(0.0))
        try:
            return cls(Share.parse(value))
        except ValueError:
            pass
        try:
            budget = Budget.parse(value)
        except ValueError:
            budget = None
        if budget is None or budget.unit != "steps":
            raise ValueError("expected a share of the phase such as `5%`, or `100 steps`")
        return cls(budget)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        written = super().__get_pydantic_json_schema__(schema, handler)
        return {"anyOf": [{"type": "string"}, {"const": 0}], **{k: v for k, v in written.items() if k != "type"}}

    def steps(self, total: int) -> int:
        """How many of `total` steps."""
        return round(self.value.fraction * total) if isinstance(self.value, Share) else int(self.value.amount)

    def interval(self, total: int) -> int:
        """Steps from one event to the next where it is due every such span; 0 for never.

        Rounded up: every 50% of 125 steps is at 63 and at the end, not at 62, 124 and at the end.
        """
        return ceil(self.value.fraction * total - 1e-9) if isinstance(self.value, Share) else int(self.value.amount)

    def __str__(self) -> str:
        return str(self.value)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Span) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


class Schedule(Part):
    """factor(step, steps): what the peak learning rate is multiplied by at `step` (from 0) of `steps`.

    All kinds share the linear warm-up from 1/warmup to 1; then `after(progress)` runs from 0 to 1 over the rest.
    """

    in_float64: ClassVar[tuple[str, ...]] = ("min_lr_ratio",)
    warmup: Span = Field(default_factory=lambda: Span(Share(0.0)))
    """Steps of linear rise to the peak rate: a share of the phase, or a number of steps."""

    def after(self, progress: float) -> float:
        raise TypeError(f"{type(self).__name__} has no shape")

    def factor(self, step: int, steps: int) -> float:
        warm = self.warmup.steps(steps)
        if step < warm:
            return (step + 1) / warm
        return self.after((step - warm) / max(1, steps - 1 - warm))

    def check(self, steps: int) -> list[Problem]:
        """The warm-up has to end before the phase does."""
        if self.warmup.steps(steps) < steps:
            return []
        return [
            Problem(
                f"a warm-up of {self.warmup} leaves nothing of {steps} steps",
                ("warmup",),
                hint="a warm-up of 1% to 10% is usual",
                consequence="the peak rate would never be used",
            )
        ]
