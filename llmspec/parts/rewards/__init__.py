"""Rewards: what an answer is worth, by a rule or by a model."""

from llmspec.core.table import Table
from llmspec.parts.rewards.base import Answered, Reward

TABLE = Table[Reward](
    __name__,
    {
        "exact_match": "ExactMatch",
        "similarity": "Similarity",
        "arithmetic": "Arithmetic",
        "regex": "Regex",
        "valid_json": "ValidJSON",
        "words": "Words",
        "length": "Length",
        "ended": "Ended",
        "language": "Language",
        "classifier": "ByClassifier",
        "reward_model": "ByRewardModel",
        "principles": "ByPrinciples",
        "sum": "Total",
    },
)

__all__ = ["TABLE", "Answered", "Reward"]
