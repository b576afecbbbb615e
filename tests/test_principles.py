"""Principles: what a language model holds of answers. The letters' order does not count, each answer has its own score,
and the model is asked in the form that it answers in, whether it lies in a folder or is a phase of the same spec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import LlmspecError
from llmspec.data.prepare import prepare
from llmspec.decoding.language_model import LanguageModel
from llmspec.parts.rewards import TABLE, Answered, Reward
from llmspec.parts.rewards.base import Opened
from llmspec.spec import load_spec
from llmspec.training.callbacks import Callback
from llmspec.training.judging import made_beside, opener
from llmspec.training.rollouts import Refused, judged, problems
from llmspec.training.run import set_up
from llmspec.training.stop import Stop

POLITE, SHORT = "The answer is polite.", "The answer is short."
words = st.text("abz ", max_size=6)


def made(ask: str, *principles: str) -> Reward:
    given = {"kind": "principles", "model": "judge", "principles": principles, "ask": ask}
    part: Reward = TABLE["principles"].model_validate(given)
    return part


def liking(text: str, sentence: str) -> float:
    """How well a text keeps to a principle, in log odds."""
    return text.count("a") - 0.5 * text.count("z") if sentence == POLITE else -0.3 * len(text)


class Judge:
    """Reads what it is asked, and holds one letter more probable whatever that is."""

    def __init__(self, bias: float, deaf: bool = False) -> None:
        self.bias, self.deaf, self.asked = bias, deaf, list[str]()

    def __call__(self, questions: Sequence[str], replies: tuple[str, str]) -> list[float]:
        assert replies == ("A", "B")
        self.asked += questions
        return [float(1 / (1 + np.exp(-self.bias - (0 if self.deaf else self.odds(q))))) for q in questions]

    def odds(self, question: str) -> float:
        (sentence,) = re.findall(r"^Principle: (.*)$", question, re.M)
        if found := re.search(r"^Answer A: (.*)\n\nAnswer B: (.*)\n\nWhich answer", question, re.M):
            return liking(found[1], sentence) - liking(found[2], sentence)
        found = re.search(r"^Answer: (.*)\n\nDoes the answer keep.*\nA: (yes|no)\nB: (yes|no)$", question, re.M)
        assert found is not None and {found[2], found[3]} == {"yes", "no"}
        return liking(found[1], sentence) * (1 if found[2] == "yes" else -1)

    def opened(self, model: Any) -> Opened:
        return Opened(lambda texts: [], (), choose=self)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def both_orders(odds: float, bias: float) -> float:
    return (sigmoid(odds + bias) + 1 - sigmoid(-odds + bias)) / 2


@given(st.lists(words, min_size=1, max_size=4), st.floats(-3, 3))
def test_an_answer_is_asked_about_in_both_orders(texts: list[str], bias: float) -> None:
    found = made("each", POLITE, SHORT).scores([Answered("What?", t) for t in texts], Judge(bias).opened)
    wanted = [np.mean([both_orders(liking(t, s), bias) for s in (POLITE, SHORT)]) for t in texts]
    assert found == pytest.approx(wanted)


@given(st.lists(st.tuples(st.integers(0, 1), words), min_size=1, max_size=6), st.floats(-3, 3))
def test_pairs_are_of_one_prompt(said: list[tuple[int, str]], bias: float) -> None:
    """The mean over all others to the prompt; one that stands alone is asked about by itself."""
    records: list[dict[str, Any]] = [{}, {}]
    answers = [Answered(f"What {which}?", text, True, records[which]) for which, text in said]
    judge = Judge(bias)
    found = made("pairs", POLITE).scores(answers, judge.opened)
    for i, (which, text) in enumerate(said):
        others = [other for j, (w, other) in enumerate(said) if w == which and j != i]
        odds = [liking(text, POLITE) - liking(other, POLITE) for other in others] or [liking(text, POLITE)]
        assert found[i] == pytest.approx(np.mean([both_orders(x, bias) for x in odds]))
    assert all(f"Prompt: What {w}?" in "".join(judge.asked) for w, _ in said)


@pytest.mark.parametrize("ask", ["each", "pairs"])
def test_a_preference_for_a_letter_counts_for_nothing(ask: str) -> None:
    answers = [Answered("What?", text) for text in ("a", "zz", "")]
    assert made(ask, POLITE).scores(answers, Judge(2.0, deaf=True).opened) == pytest.approx([0.5] * 3)


def test_what_was_said_before_is_read() -> None:
    judge = Judge(0)
    turns = (("user", "Hi"), ("assistant", "Hello"), ("user", "What?"))
    made("each", POLITE).scores([Answered("What?", "a", turns=turns)], judge.opened)
    assert "Prompt: user: Hi\nassistant: Hello\nuser: What?" in judge.asked[0]


@pytest.mark.parametrize(
    ("principles", "said"), [((" ",), "an empty principle"), ((POLITE, POLITE), "stands there twice")]
)
def test_principles_that_are_none_are_named(principles: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made("each", *principles)


def test_a_model_that_draws_nothing_cannot_be_asked() -> None:
    (problem,) = made("each", POLITE).unfit(lambda model: Opened(lambda texts: [], ()))
    assert problem.path == ("model",) and "draws no text" in problem.message


# -- a language model -------------------------------------------------------------------------------------------------
PHASE = "phases.phase.reward={kind: principles, model: before, principles: [It is short.], ask: pairs}"


class Bench:
    """A phase whose answers are judged by the phase before it."""

    def __init__(self, folder: Path, context: int) -> None:
        text, own = phase_kinds.spec_of("grpo")
        sets = [*own, f"model.context={context}", PHASE]
        plan = compile_spec(load_spec(tiny.write(folder, text), sets).spec)
        self.prepared = prepare(plan)
        self.plan = complete(plan, self.prepared.measured)
        self.phase = self.plan.phases[-1]
        self.judge: Reward = self.phase.phase.judge
        random = np.random.default_rng(0)
        model = self.phase.others["reward"].model
        self.weights = {t.name: random.normal(0, 0.3, t.shape).astype(np.float32) for t in model.tensors}
        context_ = set_up(self.plan, self.prepared, Callback(), Stop())
        others: Any = {"reward": lambda: self.weights, "reference": lambda: self.weights}
        self.open = opener(made_beside(context_, self.phase, others))

    @cached_property
    def model(self) -> LanguageModel:
        """The same weights by themselves."""
        return LanguageModel(self.plan.of("before"), self.prepared.codec, self.weights, "before", chat=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("principles"), 512)


def test_a_phase_is_asked_in_the_form_that_it_answers_in(bench: Bench) -> None:
    """Its choice is that of its logits behind a user's turn, over both letters alone."""
    other = bench.phase.others["reward"]
    assert other.once and bench.phase.memory is not None
    choose = bench.open("before").choose
    assert choose is not None
    asked = ["Is it? <|assistant|>", "And is it so?"]  # what a question spells is only text
    found = choose(asked, ("A", "B"))
    letters = [ids[0] for ids in bench.prepared.codec.encode(["A", "B"])]
    for question, value in zip(asked, found, strict=True):
        logits = bench.model.logits(bench.model.tokens(question))[0, -1, letters].astype(np.float64)
        assert value == pytest.approx(1 / (1 + np.exp(logits[1] - logits[0])), abs=1e-5)
    assert found[0] != found[1]


def test_replies_are_told_apart_where_they_differ(bench: Bench) -> None:
    choose = bench.open("before").choose
    assert choose is not None
    (found,) = choose(["Is it?"], ("to A", "to B"))
    codec = bench.prepared.codec
    ids, letters = [*bench.model.tokens("Is it?"), *codec.encode(["to "])[0]], [i[0] for i in codec.encode(["A", "B"])]
    logits = bench.model.logits(ids)[0, -1, letters].astype(np.float64)
    assert found == pytest.approx(1 / (1 + np.exp(logits[1] - logits[0])), abs=1e-5)
    with pytest.raises(LlmspecError, match="does not tell 'A' and 'A' apart"):
        choose(["Is it?"], ("A", "A"))


def test_answers_of_a_rollout_are_judged(bench: Bench) -> None:
    answers = [Answered("one", text, True, {"q": "one"}) for text in ("uno", "eins", "un")]
    parts, whole = judged(bench.judge, answers, bench.open)
    assert list(parts) == ["principles"] and parts["principles"] == whole
    assert all(0 < value < 1 for value in whole) and len(set(whole)) == 3
    with pytest.raises(Refused, match=r"a question to the model that judges has [\d,]+ tokens, and it reads 512"):
        judged(bench.judge, [Answered("one", "x" * 600)], bench.open)


def test_a_judge_that_is_too_short_for_its_questions_is_named_before_step_0(tmp_path: Path) -> None:
    short = Bench(tmp_path, 64)
    found = list(problems(short.plan, short.phase, short.prepared))
    assert any("reads 64" in p.message and p.path == ("reward",) for p in found)


@pytest.mark.parametrize(
    ("model", "said"), [("phase", "the model of `phase` is `phase`"), ("befor", "did you mean `before`")]
)
def test_phases_that_cannot_judge_are_named(tmp_path: Path, model: str, said: str) -> None:
    text, own = phase_kinds.spec_of("grpo")
    with pytest.raises(LlmspecError, match=said):
        compile_spec(load_spec(tiny.write(tmp_path, text), [*own, PHASE.replace("before", model)]).spec)
