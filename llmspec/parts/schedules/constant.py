"""The peak rate throughout."""

from typing import ClassVar, Literal

from llmspec.parts.schedules.base import Schedule


class Constant(Schedule):
    """The peak rate from the end of the warm-up on."""

    kind: Literal["constant"] = "constant"
    formula: ClassVar[str] = "lr"

    def after(self, progress: float) -> float:
        return 1.0
