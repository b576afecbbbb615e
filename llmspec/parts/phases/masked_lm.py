"""Masked language modelling, the pretraining of encoders (Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.objectives.base import MASKED
from llmspec.parts.phases.base import FILLER
from llmspec.parts.phases.plain import PlainText
from llmspec.parts.tokenizers.special_tokens import SpecialTokens


class MaskedLM(PlainText):
    """Predicts tokens of plain text that were hidden, from what stands on both sides; of networks without a causal
    mask, such as BERT."""

    kind: Literal["masked_lm"] = "masked_lm"
    makes: ClassVar[str] = FILLER
    predicts: ClassVar[str] = MASKED
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "masked_lm")] = Field(
        default_factory=objectives.TABLE.default("masked_lm")
    )
    """What is minimised, and how places are chosen and hidden."""
    add_special_tokens: bool | None = None
    """Whether text is read between the tokenizer's `cls` and `sep`, as `[CLS] text [SEP]`, in stretches that fit the
    context and of which several may share a row; otherwise rows are cut from one stream of text, with the end token
    between documents. null: where a tokenizer that others made has both tokens, as that of BERT."""
    prompts: tuple[str, ...] = ()
    """Texts with `[MASK]` where a token is to be filled in, shown at each sample; if omitted, masked text that was held
    out, or the first of the training text."""

    def around(self, specials: SpecialTokens) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        asked = specials.named if self.add_special_tokens is None else self.add_special_tokens
        if not asked or specials.cls is None or specials.sep is None:
            return None
        return (specials.cls,), (specials.sep,)
