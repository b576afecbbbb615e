"""What phases minimise."""

from llmspec.parts.objectives.base import Objective
from llmspec.parts.objectives.classification import Classification
from llmspec.parts.objectives.contrastive import Contrastive
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.objectives.distillation import Distillation
from llmspec.parts.objectives.dpo import DPO
from llmspec.parts.objectives.grpo import GRPO
from llmspec.parts.objectives.kto import KTO
from llmspec.parts.objectives.masked_lm import MaskedLM
from llmspec.parts.objectives.orpo import ORPO
from llmspec.parts.objectives.ppo import PPO
from llmspec.parts.objectives.preference_ranking import PreferenceRanking
from llmspec.parts.objectives.regression import Regression
from llmspec.parts.objectives.tagging import Tagging

TABLE: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "distillation": Distillation,
    "masked_lm": MaskedLM,
    "classification": Classification,
    "contrastive": Contrastive,
    "preference_ranking": PreferenceRanking,
    "regression": Regression,
    "ppo": PPO,
    "tagging": Tagging,
    "grpo": GRPO,
    "dpo": DPO,
    "orpo": ORPO,
    "kto": KTO,
}

__all__ = [
    "DPO",
    "GRPO",
    "KTO",
    "ORPO",
    "PPO",
    "TABLE",
    "Classification",
    "Contrastive",
    "CrossEntropy",
    "Distillation",
    "MaskedLM",
    "Objective",
    "PreferenceRanking",
    "Regression",
    "Tagging",
]
