"""Learning rates over the steps of a phase."""

from llmspec.core.table import Table
from llmspec.parts.schedules.base import Schedule

TABLE = Table[Schedule](
    __name__,
    {
        "constant": "Constant",
        "linear": "Linear",
        "cosine": "Cosine",
        "wsd": "WSD",
    },
)

__all__ = ["TABLE", "Schedule"]
