"""Rewards: bounds that hold for every answer, values by independent computations, and mistakes in their settings."""

from __future__ import annotations

import difflib
import json
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmspec.core.problems import LlmspecError, SpecError
from llmspec.parts.others import StartModel
from llmspec.parts.rewards import TABLE, Answered, Reward
from llmspec.parts.rewards.base import Opened
from llmspec.spec.lone import read_part
from llmspec.training.rollouts import judged

LABELS = ("bad", "good")
SMALLEST: dict[str, dict[str, Any]] = {
    "regex": {"pattern": "a"},
    "words": {"include": ("a",)},
    "language": {"language": "en"},
    "classifier": {"model": {"model": "runs/judge"}, "label": "good"},
    "reward_model": {"model": "runs/judge"},
    "principles": {"model": "runs/asked", "principles": ("It is short.", "It is kind.")},
    "sum": {"of": {"first": {"kind": "ended"}, "second": {"kind": "length", "weight": 2.5}}},
}
"""Settings of the kinds that have no defaults for all of them."""
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def open_(model: str | StartModel) -> Opened:
    """A judge that counts the letter g."""
    return Opened(
        lambda given: [{"good": t.count("g") / len(t), "bad": 1 - t.count("g") / len(t)} for t in given],
        LABELS,
        lambda answers: [2.5 * one.text.count("g") - len(one.prompt) for one in answers],
        choose=lambda asked, replies: [1 / (2 + question.count("g")) for question in asked],
    )


def made(kind: str, **more: Any) -> Reward:
    part: Reward = TABLE[kind].model_validate({"kind": kind, **(more or SMALLEST.get(kind, {}))})
    return part


def score(kind: str, text: str, prompt: str = "", record: dict[str, Any] | None = None, **more: Any) -> float:
    (found,) = made(kind, **more).scores([Answered(prompt, text, True, record or {})], open_)
    return found


@pytest.mark.parametrize("kind", TABLE)
@given(said=st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=4))
def test_scores_are_bounded_and_each_answer_has_its_own(kind: str, said: list[tuple[str, str, bool]]) -> None:
    """A score depends on its answer alone; and but for sums it lies between 0 and 1; not of reward models."""
    part = made(kind)
    answers = [Answered("2 + 2", text, ended, {"answer": right}) for text, right, ended in said]
    found = part.scores(answers, open_)
    assert [part.scores([one], open_)[0] for one in answers] == found
    if kind not in ("sum", "reward_model"):
        assert all(0 <= value <= 1 for value in found)
    parts = part.parts(answers, open_)
    assert all(len(values) == len(answers) for values in parts.values())


@given(st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=3), st.floats(-3, 3), st.floats(-3, 3))
def test_a_sum_adds_what_its_parts_give(said: list[tuple[str, bool]], first: float, second: float) -> None:
    answers = [Answered("", text, ended) for text, ended in said]
    of = {"ends": {"kind": "ended", "weight": first}, "short": {"kind": "length", "most": 3, "weight": second}}
    part = made("sum", of=of)
    ends = [float(ended) for _, ended in said]
    short = made("length", most=3).scores(answers, open_)
    assert part.scores(answers, open_) == pytest.approx(
        [first * a + second * b for a, b in zip(ends, short, strict=True)]
    )
    parts = part.parts(answers, open_)
    assert parts == {"ends": ends, "short": short} and part.total(parts) == part.scores(answers, open_)
    alone = made("sum", of={"ends": of["ends"]})
    assert alone.total(alone.parts(answers, open_)) == alone.scores(answers, open_) == [first * a for a in ends]


def test_a_sum_asks_each_of_its_parts_once() -> None:
    asked = 0

    def score(answers: Any) -> list[float]:
        nonlocal asked
        asked += 1
        return [1.0] * len(answers)

    of = {"judge": {"kind": "reward_model", "model": "runs/judge", "weight": 3.0}, "ends": {"kind": "ended"}}
    opened = Opened(lambda given: [], (), score)
    found = judged(made("sum", of=of), [Answered("", "a"), Answered("", "b", False)], lambda model: opened)
    assert found == ({"judge": [1.0, 1.0], "ends": [1.0, 0.0]}, [4.0, 3.0]) and asked == 1


@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 20))
def test_lengths(n: int, least: int, more: int) -> None:
    most = max(1, least + more)
    found = score("length", " ".join("w" * n), least=least, most=most)
    assert found == pytest.approx(1.0 if least <= n <= most else min(n, most if n > most else least) / max(n, least))
    assert score("length", "é" * n, least=least, most=most, unit="characters") == found


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction | None]:
    """(an expression, its value; None where it divides by zero)."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        number = draw(st.integers(0, 999))
        return str(number), Fraction(number)
    (a, x), (b, y) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    sign = draw(st.sampled_from("+-*/×÷−"))
    if x is None or y is None or (sign in "/÷" and y == 0):
        return f"({a}) {sign} ({b})", None
    value = {"+": x + y, "-": x - y, "−": x - y, "*": x * y, "×": x * y}.get(sign)
    return f"({a}) {sign} ({b})", x / y if value is None else value


@given(expressions(), st.integers(1, 9))
def test_arithmetic_is_exact(drawn: tuple[str, Fraction | None], off: int) -> None:
    text, value = drawn
    right = "0" if value is None else f"{value.numerator}/{value.denominator}"
    wrong = "0" if value is None else str(value + off)
    for more, prompt in (({"expression": "{task}"}, ""), ({"expression": None}, f"What is {text}?")):
        judged = lambda said: score("arithmetic", f"I say 7, no: {said}.", prompt, {"task": text}, **more)  # noqa: B023
        assert judged(right) == float(value is not None)
        assert judged(wrong) == 0


def test_numbers_as_people_write_them() -> None:
    assert score("arithmetic", "That is 1,234.50!", "2469 / 2 =") == 1
    assert score("arithmetic", "−3", "4 - 7") == 1 and score("arithmetic", "3", "4 - 7") == 0
    assert score("arithmetic", "no idea", "4 - 7") == 0 and score("arithmetic", "4", "no numbers") == 0
    for hostile in (
        "9**9**9",
        "__import__('os')",
        "(" * 500 + "1" + ")" * 500,
        "1" * 5000,
        "1_0",
        "1e9",
        "0x10",
        "True",
    ):
        assert score("arithmetic", "1", record={"e": hostile}, expression="{e}") == 0


def test_exact_matches() -> None:
    right = {"answer": "New  York"}
    assert (
        score("exact_match", " New York\n", record=right) == 1 and score("exact_match", "new york", record=right) == 0
    )
    more: dict[str, Any] = {"ignore_case": True, "contained": True}
    assert score("exact_match", "it is new york", record=right, **more) == 1
    assert score("exact_match", "newyork", record=right, **more) == 0


@given(texts, texts)
@example("_", "")
def test_similarity_is_one_for_the_same_words_and_grows_with_what_is_shared(a: str, b: str) -> None:
    for measure in ("chrf", "rouge_l"):
        same = score("similarity", a, record={"answer": a}, measure=measure)
        words = any(c.isalnum() or c == "_" for c in a) if measure == "rouge_l" else bool(a.split())
        assert same == pytest.approx(float(words))
    if not difflib.SequenceMatcher(None, "".join(a.split()), "".join(b.split())).find_longest_match().size:
        assert score("similarity", a, record={"answer": b}) == 0


@given(
    st.recursive(
        st.integers(-9, 9) | st.booleans() | texts | st.none(), lambda x: st.lists(x) | st.dictionaries(texts, x)
    )
)
def test_json(value: Any) -> None:
    text = json.dumps(value)
    assert score("valid_json", text) == 1 and score("valid_json", text + ",") == 0
    wanted = score("valid_json", text, schema={"type": "object", "required": ["a"]})
    assert wanted == (1.0 if isinstance(value, dict) and "a" in value else 0.5)


def test_words_are_whole_ones() -> None:
    more: dict[str, Any] = {"include": ("well done", "sun"), "exclude": ("bad",)}
    assert score("words", "Well  done, SUN!", **more) == 1
    assert score("words", "sunny badly", **more) == pytest.approx(1 / 3)  # neither is there, and `bad` is not either


def test_a_language_that_is_not_known_is_named_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(made("language", language="de").unfit(open_))
    (problem,) = made("sum", of={"x": {"kind": "language", "language": "qq"}}).unfit(open_)
    assert problem.path == ("of", "x", "language") and "does not know a language `qq`" in problem.message
    monkeypatch.setitem(sys.modules, "py3langid", None)
    (problem,) = made("language", language="de").unfit(open_)
    assert problem.path == ("kind",) and "not installed" in problem.message


def test_languages() -> None:
    german, english = "Das ist ein kleiner Satz über das Wetter.", "This is a small sentence about the weather."
    assert score("language", german, language="de") > 0.9 > 0.1 > score("language", english, language="de")


def test_a_classifier_is_asked_for_its_label() -> None:
    assert made("classifier").scores([Answered("", "gab"), Answered("", " ")], open_) == [pytest.approx(1 / 3), 0.0]
    whole = made("sum", of={"judge": {"kind": "classifier", "model": {"model": "x"}, "label": "goood"}})
    (problem,) = whole.unfit(open_)
    assert problem.path == ("of", "judge", "label") and "did you mean `good`" in problem.hint
    (problem,) = made("classifier").unfit(lambda model: Opened(lambda given: [], ()))
    assert "gives texts no labels" in problem.message


def test_a_reward_model_is_asked_for_prompt_and_answer() -> None:
    part = made("reward_model")
    assert part.scores([Answered("abc", "gag"), Answered("", "")], open_) == [2.0, 0.0]
    assert part.phases() == ((("model",), "runs/judge", ("reward_model",)),)
    named = made("reward_model", model={"model": "runs/judge"})
    assert named.phases() == () and list(named.unfit(open_)) == []
    whole = made("sum", of={"judge": {"kind": "reward_model", "model": "judge"}})
    assert whole.phases() == ((("of", "judge", "model"), "judge", ("reward_model",)),)
    (problem,) = whole.unfit(lambda model: Opened(lambda given: [], LABELS))
    assert problem.path == ("of", "judge", "model") and "nothing of how good" in problem.message


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("lenth", "", "did you mean `length`"),
        ("{kind: length, least: 9, most: 3}", "1:23", "`least: 9`, `most: 3`: no length is"),
        ("{kind: length, mots: 3}", "1:16", "did you mean `most`"),
        ("{kind: regex, pattern: '('}", "1:24", "no regular expression"),
        ("{kind: words}", "1:1", "neither `include` nor `exclude`"),
        ("{kind: words, include: [a], exclude: [A]}", "1:38", "which `include:` wants to be there"),
        ("{kind: sum, of: {a: {kind: lengt}}}", "1:28", "did you mean `length`"),
        ("{kind: similarity, reference: '{a'}", "1:31", "has no partner"),
        ("{kind: valid_json, schema: {type: strin}}", "1:28", "no JSON Schema"),
        ("{kind: classifier, model: runs/judge, label: a}", "1:27", "hint: model: {model: runs/judge}, for"),
        ("{kind: length, weight: -2}", "1:24", "nothing is added here"),
        ("{kind: [}", "1:9", "a value is missing"),
        ("nowhere.yaml", "", "cannot be read"),
    ],
)
def test_mistakes_in_settings_have_their_place(text: str, where: str, said: str) -> None:
    with pytest.raises(LlmspecError) as caught:
        read_part(text, "--by", TABLE)
    assert said in str(caught.value)
    if where:
        assert isinstance(caught.value, SpecError) and f"--by:{where}:" in str(caught.value)


def test_settings_are_a_name_a_text_or_a_file(tmp_path: Any) -> None:
    file = tmp_path / "short.yaml"
    file.write_text("kind: length\nmost: 5\n")
    assert read_part(str(file), "--by", TABLE) == read_part("{kind: length, most: 5}", "--by", TABLE)
    assert read_part("length", "--by", TABLE) == made("length")
