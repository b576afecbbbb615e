"""What a run directory and a model without a run have in common: plan, tokenizer and weights, read without trust."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from llmspec.compiler.plan import Plan
from llmspec.compiler.sound import contradictions
from llmspec.core import strict_json
from llmspec.core.hashing import digest
from llmspec.core.problems import RunError
from llmspec.parts.sources.base import Attribution
from llmspec.parts.tokenizers.base import Codec
from llmspec.runs.files import read_text

PLAN, TOKENIZER = "plan.json", "tokenizer.json"


class Taught(NamedTuple):
    """What a model was trained for last, where somebody has noted it."""

    makes: str = ""
    """The sort of artifact (llmspec/parts/phases/base.py)."""
    head: str = ""
    """The head that was trained."""
    framed: bool = False
    """Whether a text of its own stands between special tokens."""


def taught_by(plan: Plan, codec: Codec, phase: str) -> Taught:
    """What a phase of a plan trains its model for; nothing where there is no such phase."""
    framed = any(p.phase.around(codec.specials) is not None for p in plan.phases)
    trained = next((p for p in plan.phases if p.name == phase), None)
    return Taught() if trained is None else Taught(trained.makes, trained.phase.objective.head, framed)


class StoredModel(ABC):
    """A folder that a model can be opened from. Nothing in it is believed: every method says what does not fit."""

    again: ClassVar[str]
    """How a plan that cannot be read is made anew, in words."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def plan(self) -> Plan:
        """The plan. Raises RunError where plan.json is damaged, contradicts itself or is of another version."""
        path = self.path / PLAN
        text = read_text(path)
        try:
            strict_json.loads(text)
            plan = Plan.parse(text)
            wrong = next(contradictions(plan), "") or self.unfit(plan)
        except ValueError as e:
            wrong = said(e)
        if wrong:
            raise RunError(
                f"{path} cannot be read: {wrong}",
                hint=f"it is damaged or was written by another version; {self.again}",
                consequence="its weights would be misread",
            )
        return plan

    def tokenizer(self, plan: Plan) -> Any:
        """The codec. Raises RunError where tokenizer.json is not the one that was written here, and DataError where it
        is not the plan's."""
        path = self.path / TOKENIZER
        if not path.exists():
            raise RunError(f"{path} is missing", hint=self.tokenizer_again())
        text, (noted, wanted) = read_text(path), self.tokenizer_noted()
        if wanted is not None and wanted != digest(text):
            raise RunError(
                f"{path} is not the tokenizer that this model was trained with: {noted} has another hash of it",
                hint=f"put back the tokenizer.json that was here, or {self.again}",
                consequence="the model would read and write wrong text",
            )
        codec = plan.tokenizer.load(text)
        if codec.vocab > plan.model.vocab:
            raise RunError(
                f"{path} has {codec.vocab:,} tokens, and the model {plan.model.vocab:,}",
                hint="put back the tokenizer.json that was here",
            )
        return codec

    @abstractmethod
    def unfit(self, plan: Plan) -> str:
        """Why a plan that is sound cannot be that of such a folder; '' where it can."""

    @abstractmethod
    def tokenizer_again(self) -> str:
        """How a tokenizer that is missing is made anew."""

    @abstractmethod
    def tokenizer_noted(self) -> tuple[str, str | None]:
        """(file that has the tokenizer's hash, the hash; None where an older version noted none)."""

    @abstractmethod
    def weights(self, plan: Plan, phase: str | None = None) -> tuple[str, dict[str, Any], list[str]]:
        """(phase, its weights by name, notices): those of the `phase` asked for, else the latest. Raises RunError."""

    @abstractmethod
    def chat(self, plan: Plan, phase: str) -> bool:
        """Whether the weights of a phase answer a user's turn, rather than continue a text."""

    def pairs(self, plan: Plan, phase: str) -> bool:
        """Whether prompts are sources of pairs, whose target is said."""
        return False

    def taught(self, plan: Plan, codec: Codec, phase: str) -> Taught:
        """What the weights of a phase were trained for last."""
        return taught_by(plan, codec, phase)

    @abstractmethod
    def attributions(self, plan: Plan) -> tuple[Attribution, ...]:
        """Whom to name for what the model has read."""


def said(error: Exception) -> str:
    """What is wrong with data, in one line."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    first = errors()[0]
    return f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}"
