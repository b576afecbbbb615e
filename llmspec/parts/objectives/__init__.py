"""What phases minimise."""

from llmspec.core.table import Table
from llmspec.parts.objectives.base import Objective

TABLE = Table[Objective](
    __name__,
    {
        "cross_entropy": "CrossEntropy",
        "distillation": "Distillation",
        "masked_lm": "MaskedLM",
        "classification": "Classification",
        "contrastive": "Contrastive",
        "preference_ranking": "PreferenceRanking",
        "regression": "Regression",
        "ppo": "PPO",
        "tagging": "Tagging",
        "grpo": "GRPO",
        "dpo": "DPO",
        "orpo": "ORPO",
        "kto": "KTO",
    },
)

__all__ = ["TABLE", "Objective"]
