"""What phases have in common that learn from answers which people prefer, or find good or bad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.core.problems import Problem
from llmspec.parts.objectives.base import PREFERRED
from llmspec.parts.others import Other, StartModel
from llmspec.parts.phases.base import FROM_DIALOGUES, POLICY, Phase

REFERENCE = "reference"


class AnswerPhase(Phase):
    """Reads prompts with their answers whole, several of them in a row, and compares how probable answers are with what
    a reference holds of them, which is computed once, before the first step."""

    predicts: ClassVar[str] = PREFERRED
    usual_lr: ClassVar[float | None] = 1e-6
    takes: ClassVar[tuple[str, ...]] = (POLICY,)
    document_mask: Literal[True] = True
    """Tokens see only their own prompt and answer; positions restart with each."""
    max_tokens: int | None = Field(None, gt=0, le=1 << 24)
    """Tokens of a prompt with its answer that are read, at most; as many as the context if omitted."""
    truncation: Literal["none", "prompt"] = "none"
    """What is cut off what is longer: the beginning of its `prompt`; or `none`, and it is left out, and counted."""
    prompts: tuple[str, ...] = ()
    """Prompts that samples answer; if omitted, the first that are validated with, or else trained on."""
    reference: str | StartModel | None = None
    """The phase whose model the policy is compared with, or `{model: FOLDER}`, with the same tokenizer; the policy as
    it is before the first step if omitted. It lies in memory only while its log-probabilities are computed."""

    @field_validator("document_mask", mode="before")
    @classmethod
    def _apart(cls, value: Any) -> Any:
        if value is not True:  # 1 would pass for it
            raise ValueError("answers of a row never see each other in this kind of phase; leave it out, or write true")
        return value

    @property
    def compares(self) -> bool:
        """Whether its objective reads what a reference holds."""
        return bool(getattr(self.objective, "compares", False))

    @property
    def texts_drawn(self) -> int:
        return len(self.prompts) or FROM_DIALOGUES

    def read_before(self, read: int, once: int, held_out: int) -> int:
        return once + held_out if self.compares else 0

    def others(self) -> tuple[Other, ...]:
        found = super().others()
        if self.reference is None:
            return found
        return (*found, Other(REFERENCE, ("reference",), self.reference, (POLICY,), once=True))

    def together(self) -> Iterator[Problem]:
        yield from super().together()
        if self.from_ is None and self.compares:
            yield Problem(
                f"a phase of kind {self.kind} teaches a model which of its answers are preferred, and this one starts "
                "from none",
                ("from",),
                "from: PHASE, such as one of kind sft, or from: {model: FOLDER}",
                "random weights would be the reference, and stay near to it",
            )
        if self.reference is not None and not self.compares:
            yield Problem(
                f"this objective of kind {self.objective.kind} compares the policy with no reference",
                ("reference",),
                "leave it out",
                "the reference would be opened for nothing",
            )
