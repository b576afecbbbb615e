"""What a reward is: a number for an answer, the higher the better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, field_validator

from llmspec.core.problems import Path, Problem
from llmspec.parts.base import Part
from llmspec.parts.others import StartModel
from llmspec.parts.sources.template import parse


class Answered(NamedTuple):
    """An answer, and what it answers."""

    prompt: str
    """The question, or the last turn before the answer."""
    text: str
    """What was said, without special tokens."""
    ended: bool = True
    """Whether the model ended it by itself, rather than that it was cut."""
    record: Mapping[str, Any] = MappingProxyType({})
    """The fields that stand beside the prompt, such as a reference answer."""
    turns: tuple[tuple[str, str], ...] = ()
    """The whole dialogue before the answer, as (role, text), where it is more than the prompt."""


def more_than_asked(turns: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The turns before an answer where they are more than one question, as `Answered.turns` has them."""
    return tuple(turns) if len(turns) > 1 or any(role != "user" for role, _ in turns) else ()


class Opened(NamedTuple):
    """A model that rewards ask."""

    classify: Callable[[Sequence[str]], Sequence[Mapping[str, float]]]
    """The probability of each label of some texts."""
    labels: Sequence[str]
    score: Callable[[Sequence[Answered]], Sequence[float]] | None = None
    """How good answers are; None of a model that does not say."""
    tokenizer: str = ""
    """Hash of its tokenizer."""
    choose: Callable[[Sequence[str], tuple[str, str]], Sequence[float]] | None = None
    """f(questions, two replies) -> the probability of the first reply to each, of both together; None of a model that
    draws no text."""
    longest: int | None = None
    """Tokens of a dialogue that `score` reads; None where nobody counts."""


Open = Callable[[str | StartModel], Opened]
"""f(model) -> the model, opened; the same one each time."""


class Reward(Part):
    """A number for an answer. What one kind gives lies between 0 and 1, unless it says otherwise."""

    weight: float = 1.0
    """What its number is multiplied with where several are added."""

    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "weight": ("it would have no part in the sum", "the sum would be infinite")
    }
    fielded: ClassVar[tuple[str, ...]] = ()
    """Its keys that are templates of the record's fields."""
    asks: ClassVar[tuple[str, ...]] = ("reward_model",)
    """Sorts of artifacts that the phases of its spec have to leave whose models it asks."""

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.kind

    def added(self) -> Mapping[str, Reward]:
        """What gives its numbers, by the names that reports have: itself, but for sums."""
        return {self.name: self}

    @property
    def names(self) -> tuple[str, ...]:
        """Those names."""
        return tuple(self.added())

    def fields(self) -> tuple[str, ...]:
        """Fields that the record of every prompt has to have."""
        templates = [getattr(self, key) for key in self.fielded]
        return tuple(dict.fromkeys(piece.text for t in templates if t for piece in parse(t) if piece.field))

    def phases(self) -> tuple[tuple[Path, str, tuple[str, ...]], ...]:
        """The phases of its spec whose models it asks, each with the key that names it, and what they have to be."""
        phase = getattr(self, "phase", "")
        return ((("model",), phase, self.asks),) if phase else ()

    def models(self) -> tuple[tuple[Path, StartModel, tuple[str, ...]], ...]:
        """The models that it asks and that are there already, in the same way."""
        model = getattr(self, "model", None)
        return ((("model",), model, self.asks),) if isinstance(model, StartModel) else ()

    def unfit(self, open_: Open) -> Iterable[Problem]:
        """Why the models that it asks cannot answer it. Raises LlmspecError where one cannot be opened."""
        return ()

    def asked_tokens(self, count: Callable[[str], int], prompt: int, answer: int) -> int:
        """Tokens of the longest question that it asks a phase's model, of prompts and answers of so many tokens at
        most; `count` has those of a question. 0 where it asks none."""
        return 0

    def score(self, answer: Answered) -> float:
        """The number of one answer, of those kinds that look at one after another."""
        raise TypeError(f"{type(self).__name__} does not say what an answer is worth")

    def scores(self, answers: Sequence[Answered], open_: Open) -> list[float]:
        """The number of each answer."""
        return [self.score(answer) for answer in answers]

    def parts(self, answers: Sequence[Answered], open_: Open) -> dict[str, list[float]]:
        """The numbers of each answer by what gave them; one, but for sums."""
        return {name: part.scores(answers, open_) for name, part in self.added().items()}

    def total(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        """The number of each answer, of what its parts gave."""
        return list(parts[self.name])

    def lone(self) -> Iterable[Problem]:
        if self.weight != 1:
            yield Problem(
                "`weight` is what a part of a sum is multiplied with, and nothing is added here",
                ("weight",),
                f"{{kind: sum, of: {{{self.name}: {{kind: {self.kind}, weight: {self.weight:g}}}}}}}, or leave it out",
                "it would do nothing",
            )


class Referring(Reward):
    """Compares an answer with one that stands in the prompt's record."""

    fielded: ClassVar[tuple[str, ...]] = ("reference",)
    reference: str = Field("{answer}", min_length=1)
    """The right answer: text and `{fields}` of the prompt's record."""

    @field_validator("reference")
    @classmethod
    def _template(cls, value: str) -> str:
        parse(value)
        return value

    def wanted(self, answer: Answered) -> str:
        """The right answer. Raises KeyError where the record lacks a field."""
        return filled(self.reference, answer.record)


def filled(template: str, record: Mapping[str, Any]) -> str:
    """A template with the fields of a record in it. Raises KeyError where the record lacks one."""
    return "".join(str(record[piece.text]) if piece.field else piece.text for piece in parse(template))
