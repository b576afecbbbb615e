"""`llmspec rank`: orders that a person types, records that go on where they end, and answers that a reward scores."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.cli.answers import Drawn, Given
from llmspec.cli.ranking import Ranking
from llmspec.core.problems import LlmspecError
from llmspec.decoding import Generation
from llmspec.decoding.choosing import TooLong
from llmspec.decoding.prompt_file import FilePrompt, read
from llmspec.decoding.ranking import RankedFile, agreement, record_of, scores_of, shown_order
from llmspec.parts.rewards import TABLE
from llmspec.spec.decoding import Decoding
from llmspec.spec.lone import read_part


@given(st.permutations(range(6)), st.lists(st.booleans(), min_size=5, max_size=5), st.integers(2, 6), st.integers(1, 6))
def test_an_order_is_read_as_it_is_written(order: list[int], joined: list[bool], n: int, named: int) -> None:
    """Answers that are named stand above those that are not, `=` joins, and what comes first counts more."""
    first = [i for i in order if i < n][:named]
    steps = [[first[0]]]
    for answer, join in zip(first[1:], joined, strict=False):
        steps[-1].append(answer) if join else steps.append([answer])
    written = " ".join(" = ".join(str(i + 1) for i in step) for step in steps)
    groups = [set(step) for step in steps] + ([set(range(n)) - set(first)] if len(first) < n else [])
    if len(groups) < 2:
        with pytest.raises(ValueError, match="alike"):
            scores_of(written, n)
        return
    found = scores_of(written, n)
    above = lambda i: next(place for place, group in enumerate(groups) if i in group)
    assert all((found[i] > found[j]) == (above(i) < above(j)) for i in range(n) for j in range(n))
    assert min(found) == 0 and max(found) == len(groups) - 1


@pytest.mark.parametrize("order", ["0 1", "4", "a", "1 1", "1==2", "-1 2", "", "1.5"])
def test_what_is_no_order_is_refused(order: str) -> None:
    with pytest.raises(ValueError, match=r"numbers 1 to 3|named twice|alike"):
        scores_of(order, 3)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=3, max_size=3), min_size=1, max_size=4))
def test_agreement_counts_the_pairs_that_differ_in_both(first: list[list[float]]) -> None:
    """Full with itself, none with its opposite, and what is alike says nothing."""
    pairs = sum(row[i] != row[j] for row in first for i, j in ((0, 1), (0, 2), (1, 2)))
    assert agreement(zip(first, first, strict=True)) == (pairs, pairs, len(first))
    assert agreement((row, [-x for x in row]) for row in first) == (0, pairs, len(first))
    assert agreement((row, [1.0] * 3) for row in first) == (0, 0, len(first))


class Toy:
    """Says the same few things to each prompt."""

    chat, types, plan = False, {}, None
    drawing = SimpleNamespace(context=99, encoder_context=0)

    def __init__(self, said: Sequence[str]) -> None:
        self._said = said

    def seed(self, given: int | None, decoding: Decoding) -> int:
        return given or 0

    def tokens(self, given: Any, chat: bool) -> list[int]:
        return [1]

    def generate_batch(self, given: Sequence[Any], *, n: int, **more: Any) -> Iterator[list[Generation]]:
        for number, prompt in enumerate(given):
            yield [Generation(number, i, f"{prompt} {self._said[i]}", (), "eos") for i in range(n)]


RECORDS = [{"prompt": f"q{i}", "answer": f"q{i} yes"} for i in range(7)]
SAID = ("no", "yes", "yes yes yes", "no")


def prompts(count: int = 7) -> list[FilePrompt]:
    return read("\n".join(json.dumps(record) for record in RECORDS[:count]).encode(), "a.jsonl")[0]


def ranking(file: RankedFile, count: int = 7, said: Sequence[str] = SAID, **more: Any) -> Ranking:
    given = prompts(count)
    return Ranking(Drawn(Toy(said), given, len(said), 5, False, Decoding(**more)), given, file)


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_reward_scores_what_differs(tmp_path: Path) -> None:
    file = RankedFile(tmp_path / "new" / "ranked.jsonl")
    found = ranking(file, 3).by_reward(read_part("similarity", "--by", TABLE))
    rows = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3] and found["answers"] == 9, "one answer was drawn twice"
    for row in rows:
        assert row["chosen"] == f"{row['prompt']} yes" and row["rejected"] == f"{row['prompt']} no"
        assert row["scores"] == sorted(row["scores"], reverse=True) and len(row["answers"]) == 3
    again = ranking(RankedFile(file.path)).by_reward(read_part("similarity", "--by", TABLE))
    assert again["ranked_before"] == 3 and again["prompts"] == 4
    assert len(file.path.read_text().splitlines()) == 7
    alike = ranking(RankedFile(tmp_path / "b.jsonl"), 2).by_reward(read_part("ended", "--by", TABLE))
    assert alike["without_difference"] == 2
    assert "chosen" not in json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])


def test_what_a_reward_cannot_read_is_named_before_anything_is_drawn(tmp_path: Path) -> None:
    reward = read_part("{kind: similarity, reference: '{right}'}", "--by", TABLE)
    with pytest.raises(LlmspecError) as caught:
        ranking(RankedFile(tmp_path / "a.jsonl"), 2).by_reward(reward)
    assert str(caught.value).count("the reward reads `right`") == 2 and "a.jsonl:2:1" in str(caught.value)
    with pytest.raises(LlmspecError, match="at temperature 0 all answers"):
        ranking(RankedFile(tmp_path / "a.jsonl"), temperature=0.0)


@pytest.mark.parametrize("long", [("q1",), ("q1", "q2")])
def test_prompts_that_a_judge_cannot_read_are_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], long: tuple[str, ...]
) -> None:
    """The others are ranked all the same, and those come again with the same command."""
    path, reward = tmp_path / "ranked.jsonl", read_part("similarity", "--by", TABLE)
    scores = type(reward).scores

    def scored(self: Any, answers: Any, open_: Any) -> list[float]:
        if answers[0].prompt in long:
            raise TooLong("a question has 900 tokens, and it reads 512")
        return list(scores(self, answers, open_))

    with monkeypatch.context() as patch:
        patch.setattr(type(reward), "scores", scored)
        found = ranking(RankedFile(path), 4).by_reward(reward)
    assert found["left_out"] == [2, 3][: len(long)] and found["prompts"] == 4 - len(long)
    said = "1 prompt was" if len(long) == 1 else "2 prompts were"
    told = " ".join(capsys.readouterr().err.split())
    assert f"note: {said} left out, such as that of line 2: a question has 900 tokens, and it reads 512" in told
    again = ranking(RankedFile(path), 4).by_reward(reward)
    assert (again["ranked_before"], again["prompts"], again["left_out"]) == (4 - len(long), len(long), [])


def test_a_reward_that_fails_is_named_and_what_was_ranked_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reward = tmp_path / "ranked.jsonl", read_part("similarity", "--by", TABLE)
    score = type(reward).score
    for gives, said in ((math.nan, "the reward `similarity` is nan for the answer"), (None, "failed: TypeError")):
        with monkeypatch.context() as patch:
            patch.setattr(
                type(reward),
                "score",
                lambda self, answer, gives=gives: score(self, answer) if answer.prompt == "q0" else 0 + gives,
            )
            with pytest.raises(LlmspecError, match=said) as caught:
                ranking(RankedFile(path), 3).by_reward(reward)
        assert caught.value.problems[0].path == ("--by",)
        assert [record["line"] for record in RankedFile(path).records] == [1]


def best(file: RankedFile, line: int) -> str:
    return next(record["chosen"] for record in file.records if record["line"] == line)


def place(text: str, line: int) -> str:
    """What a person types to put a text first."""
    prompt, answers = prompts()[line - 1], [f"q{line - 1} {said}" for said in dict.fromkeys(SAID)]
    return str(shown_order(len(answers), 5, prompt).index(answers.index(f"q{line - 1} {text}")) + 1)


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=6), st.randoms())
def test_a_person_may_give_scores(scores: list[float], shuffle: Any) -> None:
    said = [f"{i + 1}:{score!r}" for i, score in enumerate(scores)]
    shuffle.shuffle(said)
    if len(set(scores)) < 2:
        with pytest.raises(ValueError, match="alike"):
            scores_of(" ".join(said), len(scores))
        return
    for written in (" ".join(said), ", ".join(said).replace(":", " : ")):
        assert scores_of(written, len(scores)) == scores


@pytest.mark.parametrize(
    "said", ["1:2", "1:2 2:3 3:x", "1:2 2:3 2:4", "1:2 2:3 4:1", "1:nan 2:1 3:2", "1:1 2:1 3:1", ":"]
)
def test_scores_are_of_every_answer(said: str) -> None:
    with pytest.raises(ValueError, match=r"scores are given to each|alike"):
        scores_of(said, 3)


def test_what_an_earlier_time_ranked_is_asked_again_where_it_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ranked.jsonl"
    typed(monkeypatch, place("yes", 1), place("no", 2), "q")
    assert ranking(RankedFile(path)).by_person(0.0)["left"] == 5
    typed(monkeypatch, "u", "q")
    assert ranking(RankedFile(path)).by_person(0.0)["left"] == 6
    kept = json.loads(path.read_text())["answers"]  # in the order in which they were put
    first = str(shown_order(len(kept), 5, prompts()[0]).index(kept.index("q0 no")) + 1)
    typed(monkeypatch, "u", first, place("yes", 2), "q")
    found = ranking(RankedFile(path)).by_person(0.0)
    assert (found["prompts"], found["records"], found["left"]) == (2, 2, 5)
    assert best(RankedFile(path), 1) == "q0 no" and best(RankedFile(path), 2) == "q1 yes"
    rows = path.read_text().replace("q1", "another")
    path.write_text(rows)
    typed(monkeypatch, "u", "q")
    ranking(RankedFile(path)).by_person(0.0)
    assert path.read_text() == rows and "is of another prompt" in capsys.readouterr().err


def test_a_person_ranks_skips_takes_back_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ranked.jsonl"
    typed(monkeypatch, place("yes", 1), "nonsense", place("no", 2), "u", place("yes", 2), "s", "q")
    found = ranking(RankedFile(path), said=SAID).by_person(0.0)
    assert (found["prompts"], found["skipped"], found["left"]) == (2, 1, 4)
    file = RankedFile(path)
    assert best(file, 1) == "q0 yes" and best(file, 2) == "q1 yes", "the second was taken back and ranked anew"
    assert [record["scores"] for record in file.records] == [[1.0, 0.0, 0.0]] * 2
    typed(monkeypatch, *[place("yes", line) for line in (3, 4)])  # the input ends: all is kept
    found = ranking(RankedFile(path), said=SAID).by_person(0.0)
    assert (found["prompts"], found["records"], found["left"]) == (2, 4, 3)
    assert ranking(RankedFile(path), 1, ("a", "a")).by_person(0.0)["prompts"] == 0


def test_the_same_prompt_comes_twice_and_agreement_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ranked.jsonl"
    typed(monkeypatch, *["1 2 3"] * 14)
    found = ranking(RankedFile(path), said=SAID).by_person(1.0)
    assert found["prompts"] == 7 and found["agreement"]["prompts"] == 7
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(len(record["scores_again"]) == 3 for record in records)
    counted = agreement((record["scores"], record["scores_again"]) for record in records)
    assert found["agreement"] == counted._asdict() and 0 < counted.same < counted.pairs, "places change between them"


def test_what_was_to_come_twice_comes_at_a_later_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who stops often agrees with themselves as measurably as one who ranks all at once."""
    path = tmp_path / "ranked.jsonl"
    for _ in range(3):
        typed(monkeypatch, *["1 2 3"] * 2, "q")
        ranking(RankedFile(path), said=SAID).by_person(1.0)
    assert any("scores_again" not in record for record in RankedFile(path).records)
    typed(monkeypatch, *["1 2 3"] * 14)
    found = ranking(RankedFile(path), said=SAID).by_person(1.0)
    assert found["records"] == found["agreement"]["prompts"] == 7
    typed(monkeypatch, "1 2 3")
    assert ranking(RankedFile(path), said=SAID).by_person(1.0)["prompts"] == 0, "nothing is asked a third time"


def test_the_last_order_is_taken_back_also_while_one_is_asked_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ranked.jsonl"
    typed(monkeypatch, *["1 2 3"] * 7, "u", "3 2 1", *["1 2 3"] * 7)
    found = ranking(RankedFile(path), said=SAID).by_person(1.0)
    assert (found["prompts"], found["agreement"]["prompts"]) == (7, 7)


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "mine"}\n')
    with pytest.raises(LlmspecError, match="no record of ranked answers"):
        RankedFile(path)
    assert path.read_text() == '{"text": "mine"}\n'


def test_dialogues_keep_their_turns() -> None:
    (prompt,), _ = read(b'{"messages": [{"role": "user", "content": "u"}]}', "a.jsonl")
    record = record_of(prompt, ["a", "b"], [0.0, 1.0], "length")
    assert record["messages"] == [{"role": "user", "content": "u"}] and "prompt" not in record
    assert (record["chosen"], record["rejected"], record["scores"]) == ("b", "a", [1.0, 0.0])


TEXTS = st.lists(st.text("ab ", min_size=1).filter(str.strip), min_size=2, max_size=5)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.booleans())
def test_answers_of_a_file_are_ranked_as_they_stand_there(rows: list[list[str]], apart: bool) -> None:
    """Under one key or several; what is said twice counts once, and nothing is lost or made."""
    count = min(map(len, rows))
    keys = [f"k{i}" for i in range(count)] if apart else ["replies"]
    held = [dict(zip(keys, row, strict=False)) if apart else {"replies": row} for row in rows]
    lines = "\n".join(json.dumps({"prompt": f"q{i}", **more}) for i, more in enumerate(held))
    asked, _ = read(lines.encode(), "a.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        file = RankedFile(Path(folder) / "ranked.jsonl")
        found = Ranking(Given(asked, keys, None), asked, file).by_reward(
            read_part("{kind: length, most: 1}", "--by", TABLE)
        )
        assert found["prompts"] == len(rows) and found["answers"] == sum(len(r["answers"]) for r in file.records)
        for row, record in zip(rows, file.records, strict=True):
            expected = set(row[:count] if apart else row)
            assert set(record["answers"]) == expected and len(record["answers"]) == len(expected)
            worth = dict(zip(record["answers"], record["scores"], strict=True))
            assert all(worth[a] >= worth[b] for a in expected for b in expected if len(a.split()) <= len(b.split()))


WITHOUT = {
    '{"prompt": "p", "repliess": ["a", "b"]}': "did you mean `repliess`?",
    '{"prompt": "p"}': "write {",
    '{"prompt": "p", "replies": ["a"]}': "gives one answer",
    '{"prompt": "p", "replies": "a"}': "gives one answer",
    '{"prompt": "p", "replies": []}': "is empty",
    '{"prompt": "p", "replies": ["a", 3]}': "answer 2 of `replies` is not a text",
    '{"prompt": "p", "replies": [" ", "b"]}': "answer 1 of `replies` is not a text",
    '{"prompt": "p", "replies": null}': "answer 1 of `replies` is not a text",
}


def test_records_without_answers_are_named_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(['{"prompt": "p", "replies": ["a", "b"]}', *WITHOUT]))
    done = tiny.call("rank", "--prompts", path, "--answers", "replies", "--by", "length", "--out", tmp_path / "o.jsonl")
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "o.jsonl").exists()
    told = " ".join(done.stderr.split())
    for line, said in enumerate(WITHOUT.values(), 2):
        assert f"mine.jsonl:{line}:1" in told and said in told


def test_a_person_ranks_answers_of_a_file_and_no_model_is_there(tmp_path: Path) -> None:
    path, out = tmp_path / "mine.jsonl", tmp_path / "ranked.jsonl"
    path.write_text(
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "q", "chosen": "a", "rejected": "a"}\n'
    )
    given = ["rank", "--prompts", path, "--answers", "chosen, rejected", "--repeats", "0", "--out", out]
    done = subprocess.run(tiny.command(*given), input="1\n", capture_output=True, text=True, cwd=tiny.ROOT, timeout=300)
    assert done.returncode == 0 and "1 with one answer alone" in " ".join(done.stdout.split()), done.stderr
    record = json.loads(out.read_text())
    assert {record["chosen"], record["rejected"]} == {"a", "b"} and record["scores"] == [1.0, 0.0]
    refused = tiny.call("rank", tmp_path, *given[1:])
    assert refused.returncode == 2 and "both say where answers come from" in " ".join(refused.stderr.split())
