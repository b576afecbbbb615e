"""Rewards: what an answer is worth, by a rule or by a model."""

from llmspec.parts.rewards.arithmetic import Arithmetic
from llmspec.parts.rewards.base import Answered, Reward
from llmspec.parts.rewards.classifier import ByClassifier
from llmspec.parts.rewards.ended import Ended
from llmspec.parts.rewards.exact_match import ExactMatch
from llmspec.parts.rewards.language import Language
from llmspec.parts.rewards.length import Length
from llmspec.parts.rewards.principles import ByPrinciples
from llmspec.parts.rewards.regex import Regex
from llmspec.parts.rewards.reward_model import ByRewardModel
from llmspec.parts.rewards.similarity import Similarity
from llmspec.parts.rewards.sum import PARTS as TABLE
from llmspec.parts.rewards.sum import Total
from llmspec.parts.rewards.valid_json import ValidJSON
from llmspec.parts.rewards.words import Words

TABLE |= {
    "exact_match": ExactMatch,
    "similarity": Similarity,
    "arithmetic": Arithmetic,
    "regex": Regex,
    "valid_json": ValidJSON,
    "words": Words,
    "length": Length,
    "ended": Ended,
    "language": Language,
    "classifier": ByClassifier,
    "reward_model": ByRewardModel,
    "principles": ByPrinciples,
    "sum": Total,
}

__all__ = ["TABLE", "Answered", "Reward"]
