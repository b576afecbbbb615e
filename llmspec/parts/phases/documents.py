"""What phases have in common that learn one thing of each document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from llmspec.parts.heads import Head
from llmspec.parts.heads.pooling import Pooling
from llmspec.parts.phases.base import Phase


class DocumentPhase(Phase):
    """Reads documents whole, each between the special tokens of its tokenizer, several of them in a row."""

    document_mask: Literal[True] = True
    """Tokens see only their own document; positions restart with each."""
    max_tokens: int | None = Field(None, gt=0, le=1 << 24)
    """Tokens of a text that are read, at most, special tokens included; as many as the context if omitted."""
    truncation: Literal["none", "end"] = "none"
    """What is cut off longer texts, and off pairs that do not fit the context together: their `end`; or `none`, and
    they are left out, and counted."""
    prompts: tuple[str, ...] = ()
    """Texts that are shown with the model's answer at each sample; if omitted, the first that are validated with, or
    else trained on."""

    @field_validator("document_mask", mode="before")
    @classmethod
    def _apart(cls, value: Any) -> Any:
        if value is not True:  # 1 would pass for it
            raise ValueError("texts of a row never see each other in this kind of phase; leave it out, or write `true`")
        return value

    def own_head(self, pooling: Pooling) -> Head:
        """The head that it trains, where neither the model nor the spec has one of that name."""
        raise NotImplementedError

    def added_heads(self, base: Mapping[str, Head], sees_ahead: bool) -> Mapping[str, Head]:
        """Those of the spec, and its own where there is none of the objective's name: the mean of its tokens stands for
        a text where tokens see what follows, the last one where they do not."""
        name = self.objective.head
        if name in base or name in self.heads:
            return self.heads
        return {**self.heads, name: self.own_head("mean" if sees_ahead else "last")}
