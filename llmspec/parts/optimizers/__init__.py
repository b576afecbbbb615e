"""Update rules."""

from llmspec.parts.optimizers.adafactor import Adafactor
from llmspec.parts.optimizers.adam import Adam
from llmspec.parts.optimizers.adamw import AdamW
from llmspec.parts.optimizers.base import Optimizer
from llmspec.parts.optimizers.lion import Lion
from llmspec.parts.optimizers.muon import Muon
from llmspec.parts.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from llmspec.parts.optimizers.sgd import SGD

TABLE: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "muon": Muon,
    "adafactor": Adafactor,
    "lion": Lion,
    "schedule_free_adamw": ScheduleFreeAdamW,
}

__all__ = ["TABLE", "Optimizer"]
