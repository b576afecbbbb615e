"""How well an answer keeps to principles, by a language model that is asked (Bai et al. 2022, arXiv:2212.08073, section
4.1; Lee et al. 2023, arXiv:2309.00267, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.core.problems import Problem
from llmspec.parts.others import StartModel
from llmspec.parts.rewards.base import Answered, Open, Reward

LETTERS = ("A", "B")
"""What the model replies with."""
KEEPS = ("yes", "no")


class ByPrinciples(Reward):
    """How well an answer keeps to some principles, as a language model sees it. The model is asked about each principle
    and has to reply with A or B; what counts is how probable both letters are, not what it would say. Each question is
    asked twice with the choices exchanged, so that a preference for a letter or a place counts for nothing."""

    kind: Literal["principles"] = "principles"
    formula: ClassVar[str] = "mean over principles and both orders of P(kept) / (P(A) + P(B))"
    asks: ClassVar[tuple[str, ...]] = ("policy",)
    model: Annotated[str, Field(min_length=1)] | StartModel
    """The model that is asked: a phase whose model draws text; outside a spec, or as `{model: FOLDER}`, the folder of a
    run or of a saved model, or a GGUF file."""
    principles: tuple[str, ...] = Field(min_length=1, max_length=1000)
    """Sentences that an answer is to keep to, such as `The answer is polite.`; all count the same."""
    ask: Literal["each", "pairs"] = "each"
    """`each`: whether an answer keeps to the principle, yes or no. `pairs`: which of two answers to the same prompt
    keeps to it better; an answer is worth the mean over all others to its prompt, and one without others as with
    `each`."""

    @field_validator("principles")
    @classmethod
    def _sentences(cls, principles: tuple[str, ...]) -> tuple[str, ...]:
        if any(not sentence.strip() for sentence in principles):
            raise ValueError("an empty principle asks for nothing; write a sentence, such as `The answer is polite.`")
        if twice := next((s for i, s in enumerate(principles) if s.strip() in map(str.strip, principles[:i])), None):
            raise ValueError(f"`{twice[:60]}` stands there twice; write it once")
        return principles

    @property
    def phase(self) -> str:
        """The phase whose model it is; '' where it is there already."""
        return self.model if isinstance(self.model, str) else ""

    def unfit(self, open_: Open) -> Iterable[Problem]:
        choose = open_(self.model).choose
        if choose is None:
            yield Problem(
                "the model draws no text, so that it cannot be asked anything",
                ("model",),
                "name a run whose last phase answers, or a model that does",
                "no answer would have a reward",
            )
            return
        empty = [question for sentence in self.principles for question in self._questions(sentence, [Answered("", "")])]
        choose(empty, LETTERS)  # raises where a principle alone is too long for it

    def asked_tokens(self, count: Callable[[str], int], prompt: int, answer: int) -> int:
        if not self.phase:  # its tokenizer is another one
            return 0
        beside = 2 if self.ask == "pairs" else 1
        empty = [self._questions(sentence, [Answered("", "")] * beside) for sentence in self.principles]
        return max(count(question) for both in empty for question in both) + prompt + beside * answer

    def scores(self, answers: Sequence[Answered], open_: Open) -> list[float]:
        choose = open_(self.model).choose
        assert choose is not None, "it was asked whether it fits"
        asked = self._groups(answers)
        questions = [
            question
            for group in asked
            for sentence in self.principles
            for question in self._questions(sentence, [answers[i] for i in group])
        ]
        first = iter(choose(questions, LETTERS) if questions else ())
        total, count = [0.0] * len(answers), [0] * len(answers)
        for group in asked:
            for _ in self.principles:
                # The same choice in both orders: the first letter, then the second one.
                kept = (next(first) + 1 - next(first)) / 2
                for i, value in zip(group, (kept, 1 - kept), strict=False):
                    total[i] += value
                    count[i] += 1
        return [found / n for found, n in zip(total, count, strict=True)]

    def _groups(self, answers: Sequence[Answered]) -> list[tuple[int, ...]]:
        """What is asked about: one answer, or two of them to the same prompt."""
        if self.ask == "each":
            return [(i,) for i in range(len(answers))]
        together = dict[object, list[int]]()
        for i, answer in enumerate(answers):
            together.setdefault((answer.prompt, answer.turns, id(answer.record)), []).append(i)
        pairs = [(i, j) for group in together.values() for i in group for j in group if i < j]
        return [*pairs, *((group[0],) for group in together.values() if len(group) == 1)]

    def _questions(self, sentence: str, answers: Sequence[Answered]) -> list[str]:
        """A question about one answer or two, and the same with the choices exchanged."""
        said = "\n".join(f"{role}: {text}" for role, text in answers[0].turns) or answers[0].prompt
        first = f"Principle: {sentence.strip()}\n\nPrompt: {said}\n\n"
        if len(answers) == 1:
            ask = f"Answer: {answers[0].text}\n\nDoes the answer keep to the principle?\n"
            return [f"{first}{ask}{LETTERS[0]}: {KEEPS[i]}\n{LETTERS[1]}: {KEEPS[1 - i]}\n{REPLY}" for i in range(2)]
        return [
            f"{first}Answer {LETTERS[0]}: {one.text}\n\nAnswer {LETTERS[1]}: {other.text}\n\n"
            f"Which answer keeps better to the principle? {REPLY}"
            for one, other in (answers, answers[::-1])
        ]


REPLY = f"Reply with {LETTERS[0]} or {LETTERS[1]}."
