"""A source text to its target: translation, summaries, answers (Sutskever et al. 2014, arXiv:1409.3215)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.phases.base import Phase

Truncated = Literal["none", "source", "target", "both"]


class Seq2Seq(Phase):
    """Predicts the target of a record, given its source: of sources with `source:` and `target:`, or with one question
    and one answer. An encoder reads the source, or else a decoder alone does, most fittingly with `mask: {kind:
    prefix}`."""

    kind: Literal["seq2seq"] = "seq2seq"
    pairs: ClassVar[bool] = True
    train_on: ClassVar[tuple[str, ...]] = ("assistant",)
    """The role whose words count: a pair is a question and its answer."""
    document_mask: bool = True
    """Whether tokens see only their own pair, where a decoder reads several in a row."""
    truncation: Truncated = "none"
    """Which sides are cut to the context where they are longer; their ends stay. A pair with a side too long that is
    not cut is left out whole, and counted."""
    generate_metrics: int = Field(128, ge=0, le=1 << 20)
    """Held-out pairs of each source that are answered at each validation, by the most probable tokens, for exact match,
    chrF and ROUGE-L; 0: none."""

    @property
    def answered(self) -> int:
        return self.generate_metrics

    def measured(self) -> dict[str, str]:
        """How near its answers are, too, where it gives any in validation."""
        told = dict.fromkeys(("exact match", "chrF", "ROUGE-L"), "higher")
        return {**super().measured(), **(told if self.generate_metrics else {})}
