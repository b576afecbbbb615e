"""Kinds of training phases."""

from llmspec.parts.phases.base import Phase
from llmspec.parts.phases.pretrain import Pretrain
from llmspec.parts.phases.sft import SFT

TABLE: dict[str, type[Phase]] = {"pretrain": Pretrain, "sft": SFT}

__all__ = ["TABLE", "Phase"]
