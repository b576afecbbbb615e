"""How good answers are, by a model that was trained to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmspec.backends.plain.backend import Backend
from llmspec.compiler.plan import ModelPlan
from llmspec.decoding.numbers import Scorer
from llmspec.decoding.reading import Reading
from llmspec.model.steps import Tensors
from llmspec.parts.heads.score import Score
from llmspec.parts.ops import WeightLayout
from llmspec.parts.rewards.base import Answered
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.templates.base import Turn, encode
from llmspec.parts.tokenizers.base import Codec


class AnswerScorer(Scorer):
    """A reward model: a number for a prompt with its answer, by the last token of the dialogue that both are."""

    def __init__(
        self,
        model: ModelPlan,
        head: str,
        backend: Backend,
        weights: Tensors,
        codec: Codec,
        layouts: Mapping[str, WeightLayout],
        template: ChatTemplate,
    ) -> None:
        super().__init__(model, head, backend, weights, codec, layouts)
        self._template = template

    def rewards(self, answers: Sequence[Answered]) -> list[float]:
        """The number of each answer. Of a dialogue that is longer than is read, the beginning is left out."""
        rows = [self._dialogue(answer)[-self.longest :] for answer in answers]
        found = self.read_rows(rows)[:, 0].astype(float) * self.std + self.mean
        return [float(number) for number in found]

    def _dialogue(self, answer: Answered) -> list[int]:
        said = answer.turns or (("user", answer.prompt),)
        turns = [Turn(role, (text,) if text else ()) for role, text in said]  # type: ignore[arg-type]
        turns.append(Turn("assistant", (answer.text,) if answer.text else ()))
        return encode(self._codec, self._template.render(self._codec.specials, turns))


def reward_head(model: ModelPlan, named: str = "reward") -> str | None:
    """The head that says how good answers are: the one of that name, or else the last that gives a number."""
    numbers = [name for name, head in model.heads.items() if isinstance(head, Score)]
    return named if named in numbers else numbers[-1] if numbers else None


JUDGING = Reading(
    AnswerScorer,
    reward_head,
    "this model does not say how good answers are",
    hint="a phase of kind reward trains a model that does",
    consequence="there would be no reward",
)
"""How answers get rewards."""
