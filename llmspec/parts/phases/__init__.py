"""Kinds of training phases."""

from llmspec.parts.phases.base import Phase
from llmspec.parts.phases.best_of_n import BestOfN
from llmspec.parts.phases.classify import Classify
from llmspec.parts.phases.contrastive import Contrastive
from llmspec.parts.phases.dpo import DPO
from llmspec.parts.phases.grpo import GRPO
from llmspec.parts.phases.kto import KTO
from llmspec.parts.phases.masked_lm import MaskedLM
from llmspec.parts.phases.orpo import ORPO
from llmspec.parts.phases.ppo import PPO
from llmspec.parts.phases.prefix_lm import PrefixLM
from llmspec.parts.phases.pretrain import Pretrain
from llmspec.parts.phases.regress import Regress
from llmspec.parts.phases.reward import Reward
from llmspec.parts.phases.seq2seq import Seq2Seq
from llmspec.parts.phases.sft import SFT
from llmspec.parts.phases.span_corruption import SpanCorruption
from llmspec.parts.phases.tag import Tag

TABLE: dict[str, type[Phase]] = {
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

__all__ = ["TABLE", "Phase"]
