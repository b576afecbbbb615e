"""Learning rates over the steps of a phase."""

from llmspec.parts.schedules.base import Schedule
from llmspec.parts.schedules.constant import Constant
from llmspec.parts.schedules.cosine import Cosine
from llmspec.parts.schedules.linear import Linear
from llmspec.parts.schedules.wsd import WSD

TABLE: dict[str, type[Schedule]] = {"constant": Constant, "linear": Linear, "cosine": Cosine, "wsd": WSD}

__all__ = ["TABLE", "Schedule"]
