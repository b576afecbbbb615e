"""Update rules."""

from llmspec.parts.optimizers.adam import Adam
from llmspec.parts.optimizers.adamw import AdamW
from llmspec.parts.optimizers.base import Optimizer
from llmspec.parts.optimizers.muon import Muon
from llmspec.parts.optimizers.sgd import SGD

TABLE: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "muon": Muon}

__all__ = ["TABLE", "Optimizer"]
