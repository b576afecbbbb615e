"""What each phase kind trains on, validates with and shows: one file a kind, one line in the table."""

from llmspec.training.tasks.base import Task
from llmspec.training.tasks.best_of_n import BestOfN
from llmspec.training.tasks.classify import Classify
from llmspec.training.tasks.contrastive import Contrastive
from llmspec.training.tasks.dpo import DPO
from llmspec.training.tasks.grpo import GRPO
from llmspec.training.tasks.kto import KTO
from llmspec.training.tasks.masked_lm import MaskedLM
from llmspec.training.tasks.orpo import ORPO
from llmspec.training.tasks.ppo import PPO
from llmspec.training.tasks.prefix_lm import PrefixLM
from llmspec.training.tasks.pretrain import Pretrain
from llmspec.training.tasks.regress import Regress
from llmspec.training.tasks.reward import Reward
from llmspec.training.tasks.seq2seq import Seq2Seq
from llmspec.training.tasks.sft import SFT
from llmspec.training.tasks.span_corruption import SpanCorruption
from llmspec.training.tasks.tag import Tag

TASKS: dict[str, type[Task]] = {
    "best_of_n": BestOfN,
    "classify": Classify,
    "contrastive": Contrastive,
    "dpo": DPO,
    "grpo": GRPO,
    "kto": KTO,
    "masked_lm": MaskedLM,
    "orpo": ORPO,
    "ppo": PPO,
    "prefix_lm": PrefixLM,
    "pretrain": Pretrain,
    "regress": Regress,
    "reward": Reward,
    "seq2seq": Seq2Seq,
    "sft": SFT,
    "span_corruption": SpanCorruption,
    "tag": Tag,
}
"""By the `kind:` of a phase."""

__all__ = ["TASKS", "Task"]
