"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Path, Problem
from llmspec.core.table import choice
from llmspec.parts.others import StartModel
from llmspec.parts.rewards import TABLE, Answered, Reward
from llmspec.parts.rewards.base import Open


class Total(Reward):
    """The sum of several rewards, each times its `weight`. It has no bounds of its own."""

    kind: Literal["sum"] = "sum"
    formula: ClassVar[str] = "Σ weight · reward"
    of: dict[str, Annotated[Reward, choice(TABLE)]] = Field(min_length=1)
    """What is added, each by a name for reports."""

    def added(self) -> Mapping[str, Reward]:
        return self.of

    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(field for part in self.of.values() for field in part.fields()))

    def phases(self) -> tuple[tuple[Path, str, tuple[str, ...]], ...]:
        return tuple(
            (("of", name, *path), phase, takes)
            for name, part in self.of.items()
            for path, phase, takes in part.phases()
        )

    def models(self) -> tuple[tuple[Path, StartModel, tuple[str, ...]], ...]:
        return tuple(
            (("of", name, *path), model, takes)
            for name, part in self.of.items()
            for path, model, takes in part.models()
        )

    def asked_tokens(self, count: Callable[[str], int], prompt: int, answer: int) -> int:
        return max(part.asked_tokens(count, prompt, answer) for part in self.of.values())

    def unfit(self, open_: Open) -> Iterable[Problem]:
        for name, part in self.of.items():
            yield from (problem.at("of", name) for problem in part.unfit(open_))

    def scores(self, answers: Sequence[Answered], open_: Open) -> list[float]:
        return self.total(self.parts(answers, open_))

    def total(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        weights = [part.weight for part in self.of.values()]
        each = zip(*(parts[name] for name in self.of), strict=True)
        return [sum(weight * score for weight, score in zip(weights, scores, strict=True)) for scores in each]
