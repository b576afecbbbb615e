"""Kinds of training phases."""

from llmspec.core.table import Table
from llmspec.parts.phases.base import Phase

TABLE = Table[Phase](
    __name__,
    {
        "best_of_n": "BestOfN",
        "classify": "Classify",
        "contrastive": "Contrastive",
        "dpo": "DPO",
        "grpo": "GRPO",
        "kto": "KTO",
        "masked_lm": "MaskedLM",
        "orpo": "ORPO",
        "ppo": "PPO",
        "prefix_lm": "PrefixLM",
        "pretrain": "Pretrain",
        "regress": "Regress",
        "reward": "Reward",
        "seq2seq": "Seq2Seq",
        "sft": "SFT",
        "span_corruption": "SpanCorruption",
        "tag": "Tag",
    },
)

__all__ = ["TABLE", "Phase"]
