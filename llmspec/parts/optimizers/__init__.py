"""Update rules."""

from llmspec.core.table import Table
from llmspec.parts.optimizers.base import Optimizer

TABLE = Table[Optimizer](
    __name__,
    {
        "sgd": "SGD",
        "adam": "Adam",
        "adamw": "AdamW",
        "muon": "Muon",
        "adafactor": "Adafactor",
        "lion": "Lion",
        "schedule_free_adamw": "ScheduleFreeAdamW",
    },
)

__all__ = ["TABLE", "Optimizer"]
