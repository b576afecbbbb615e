"""What a reward model says of an answer (Ouyang et al. 2022, arXiv:2203.02155, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.others import StartModel
from llmspec.parts.rewards.base import Answered, Open, Reward


class ByRewardModel(Reward):
    """The number that a reward model gives a prompt with its answer, rendered as a dialogue by the chat template. It
    has no bounds, and only differences of it mean something."""

    kind: Literal["reward_model"] = "reward_model"
    formula: ClassVar[str] = "r(prompt, answer)"
    model: Annotated[str, Field(min_length=1)] | StartModel
    """The phase of kind `reward` whose model it is; outside a spec, or as `{model: FOLDER}`, the folder of a run that
    trained one, or of a saved one."""

    @property
    def phase(self) -> str:
        """The phase whose model it is; '' where it is there already."""
        return self.model if isinstance(self.model, str) else ""

    def unfit(self, open_: Open) -> Iterable[Problem]:
        if open_(self.model).score is None:
            yield Problem(
                "the model says nothing of how good answers are",
                ("model",),
                "name a run with a phase of kind reward",
                "no answer would have a reward",
            )

    def scores(self, answers: Sequence[Answered], open_: Open) -> list[float]:
        score = open_(self.model).score
        assert score is not None, "it was asked whether it fits"
        return [float(number) for number in score(answers)] if answers else []
