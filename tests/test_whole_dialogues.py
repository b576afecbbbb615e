"""What a reward is told of a dialogue: all that was said before the answer, and the last turn as its prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny

from llmspec.cli.answers import Given
from llmspec.cli.ranking import Ranking
from llmspec.compiler import compile_spec
from llmspec.data.prepare import prepare
from llmspec.decoding.prompt_file import read
from llmspec.decoding.ranking import RankedFile
from llmspec.explain.held_out_prompts import opened
from llmspec.parts.rewards import TABLE
from llmspec.parts.rewards.base import Answered, more_than_asked
from llmspec.parts.rewards.length import Length
from llmspec.spec import load_spec
from llmspec.spec.lone import read_part
from llmspec.training.run import run

TURNS = [("system", "be kind"), ("user", "one"), ("assistant", "a"), ("user", "two")]
BEFORE: dict[str, tuple[tuple[str, str], ...]] = {
    "a question": (("user", "two"),),
    "with a system turn": (TURNS[0], ("user", "two")),
    "of several turns": tuple(TURNS[1:]),
    "of several turns with a system turn": tuple(TURNS),
}


def messages(turns: Any) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Answered]:
    """Every answer that a reward of length is given."""
    found, score = list[Answered](), Length.score
    monkeypatch.setattr(Length, "score", lambda self, answer: (found.append(answer), score(self, answer))[1])
    return found


def sets_of(before: Any) -> list[str]:
    records = [{"messages": messages([*before[:-1], ("user", f"two {i}"), ("assistant", "a")])} for i in range(12)]
    _, own = phase_kinds.spec_of("grpo")
    unsaid = ["data.sources.facts.text=null", "data.sources.facts.dialogue=null", "model.context=64"]
    return [*own, f"data.sources.facts.records={json.dumps(records)}", *unsaid, "data.sources.facts.messages=messages"]


def same(answer: Answered, before: Any) -> None:
    """An answer that was drawn to these turns, the number of its record behind the last of them."""
    *first, (role, _) = before
    assert answer.prompt.startswith("two ")
    assert answer.turns == more_than_asked((*first, (role, answer.prompt)))
    assert bool(answer.turns) == (len(before) > 1)


@pytest.mark.parametrize("name", BEFORE)
def test_a_rollout_tells_the_whole_dialogue(name: str, tmp_path: Path, seen: list[Answered]) -> None:
    few = ["phases.phase.budget=1 steps", "phases.phase.reward={kind: length, least: 2}"]
    spec = load_spec(tiny.write(tmp_path, phase_kinds.spec_of("grpo")[0]), [*sets_of(BEFORE[name]), *few]).spec
    run(compile_spec(spec), tmp_path / "run")
    assert seen
    for answer in seen:
        same(answer, BEFORE[name])


@pytest.mark.parametrize("name", BEFORE)
def test_held_out_prompts_tell_it_up_to_the_first_answer(name: str, tmp_path: Path) -> None:
    spec = load_spec(tiny.write(tmp_path, phase_kinds.spec_of("grpo")[0]), sets_of(BEFORE[name])).spec
    prepared = prepare(compile_spec(spec))
    ((_, train, _),) = prepared.sides()["prompt"] if "prompt" in prepared.sides() else prepared.sides()["dialogue"]
    turns = [turn for turn in BEFORE[name] if turn[0] != "assistant"]
    first = turns[: next(i for i, (role, _) in enumerate(turns, 1) if role == "user")]
    for asked, record in opened(prepared.codec, train):
        assert [role for role, _ in asked.turns] == [role for role, _ in first]
        assert asked.turns[-1][1] == asked.text == record["prompt"] and asked.turns[:-1] == tuple(first[:-1])


@pytest.mark.parametrize("name", BEFORE)
def test_ranking_tells_it(name: str, tmp_path: Path, seen: list[Answered]) -> None:
    turns = (*BEFORE[name][:-1], ("user", "two 1"))
    line = json.dumps({"messages": messages(turns), "answers": ["a", "b b b"]})
    prompts, _ = read(line.encode(), "a.jsonl")
    file = RankedFile(tmp_path / "ranked.jsonl")
    Ranking(Given(prompts, ["answers"], None), prompts, file).by_reward(read_part("length", "--by", TABLE))
    assert [answer.text for answer in seen] == ["a", "b b b"]
    for answer in seen:
        same(answer, BEFORE[name])
