"""Kinds of training phases."""

from llmspec.parts.phases.base import Phase
from llmspec.parts.phases.classify import Classify
from llmspec.parts.phases.masked_lm import MaskedLM
from llmspec.parts.phases.pretrain import Pretrain
from llmspec.parts.phases.seq2seq import Seq2Seq
from llmspec.parts.phases.sft import SFT

TABLE: dict[str, type[Phase]] = {
    "classify": Classify,
    "masked_lm": MaskedLM,
    "pretrain": Pretrain,
    "seq2seq": Seq2Seq,
    "sft": SFT,
}

__all__ = ["TABLE", "Phase"]
