"""How near an answer is to the right one."""

from __future__ import annotations

from typing import ClassVar, Literal

from llmspec.core.text_scores import chrf, rouge_l
from llmspec.parts.rewards.base import Answered, Referring

_MEASURES = {"chrf": chrf, "rouge_l": rouge_l}


class Similarity(Referring):
    """chrF2 (Popović 2015) or the F1 of ROUGE-L (Lin 2004) of one answer beside its reference, as
    llmspec/core/text_scores.py computes them."""

    kind: Literal["similarity"] = "similarity"
    formula: ClassVar[str] = "chrF2(answer, reference) or ROUGE-L"
    measure: Literal["chrf", "rouge_l"] = "chrf"
    """chrf compares characters, rouge_l the longest common sequence of words."""

    def score(self, answer: Answered) -> float:
        return _MEASURES[self.measure]([answer.text], [self.wanted(answer)])
