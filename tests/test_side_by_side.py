"""The same prompts after every phase: answered by each of its models, kept, and shown side by side at every width."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import llmspec
from llmspec.core.problems import SpecError
from llmspec.explain.run import explain_run
from llmspec.explain.side_by_side import PhaseAnswer, SideBySide
from llmspec.render import report_answers
from llmspec.render.terminal import Screen
from llmspec.runs.run import RunFolder
from llmspec.training.prompts import looked_at

PROMPTS = ("one", "the two")
ASKED = "prompts=[one, the two]"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phases that was made without prompts, and was then asked for them."""
    folder = tmp_path_factory.mktemp("asked") / "run"
    shutil.copytree(small.trained(tmp_path_factory), folder)
    heard = small.Heard()
    llmspec.run(small.plan(ASKED), folder, watcher=heard)
    assert heard.taken == ["pretrain", "chat"] and not heard.steps, "prompts shape no weight"
    return folder


def kept(run: Path) -> dict[str, Any]:
    return {name: RunFolder.open(run).phase(name).answers for name in ("pretrain", "chat")}


def test_each_phase_says_what_its_model_says_to_the_prompt_alone(run: Path) -> None:
    found = kept(run)
    assert [found[name]["chat"] for name in ("pretrain", "chat")] == [False, True]
    for name, answers in found.items():
        model = llmspec.open(run, phase=name)
        said = [(p, a.text, a.finish_reason) for p in PROMPTS for a in model.generate(p)]
        assert [(a["prompt"], a["text"], a["finish_reason"]) for a in answers["answers"]] == said
        assert model.chat == answers["chat"]


def test_prompts_are_no_part_of_what_a_phase_is(run: Path, tmp_path: Path) -> None:
    """A run from its beginning has the same keys, rows and answers, with prompts or without."""
    assert [p.key for p in small.plan(ASKED).phases] == [p.key for p in small.plan().phases]
    fresh = llmspec.run(small.plan(ASKED), tmp_path / "run").path
    assert kept(fresh) == kept(run)
    for name in ("pretrain", "chat"):
        rows = [(place / name / "metrics.jsonl").read_bytes() for place in (fresh, run)]
        assert rows[0] == rows[1]


def test_they_are_answered_anew_where_something_else_is_asked(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    before = {name: (other / name / "answers.json").stat().st_mtime_ns for name in ("pretrain", "chat")}
    llmspec.run(small.plan(ASKED), other)
    assert before == {name: (other / name / "answers.json").stat().st_mtime_ns for name in before}
    llmspec.run(small.plan("prompts=[three]", "decoding.max_tokens=2"), other)
    found = explain_run(RunFolder.open(other)).answers
    assert [(one.prompt, [a.phase for a in one.answers]) for one in found] == [("three", ["pretrain", "chat"])]


def test_the_report_has_a_row_for_each_prompt(run: Path) -> None:
    report = explain_run(RunFolder.open(run))
    assert [one.prompt for one in report.answers] == list(PROMPTS)
    status, said = small.call("explain", str(run), "--json")
    assert status == 0
    answers = json.loads(said)["answers"]
    assert [[a["text"] for a in one["answers"]] for one in answers] == [
        [a.text for a in one.answers] for one in report.answers
    ]
    status, said = small.call("explain", str(run))
    assert status == 0 and "the same prompts after every phase" in said


def test_damage_is_told_in_words(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "chat" / "answers.json").write_text('{"asked": 3, "answers": "none"}')
    status, said = small.call("explain", str(other))
    assert status != 0 and "answers.json is damaged" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("override", "path", "said"),
    [
        ("prompts=[fits, this one is much longer than the context of the model]", ("prompts", 1), "context is 16"),
        ("prompts=[fits, '  ']", ("prompts", 1), ""),
        ("prompts=[3]", ("prompts", 0), ""),
        ("prompts=one", ("prompts",), ""),
    ],
)
def test_what_cannot_be_asked_is_named_before_step_0(override: str, path: tuple[Any, ...], said: str) -> None:
    try:
        plan = small.plan(override)
        problems = tuple(looked_at(plan, plan.tokenizer.train(["one two three"] * 9))[0])
    except SpecError as error:
        problems = error.problems
    (problem,) = problems
    assert problem.path == path and said in problem.message


TEXTS = st.text("abc \n\t漢\x1b", min_size=0, max_size=300)
PHASES = st.lists(st.text("abcdefgh-", min_size=1, max_size=30), min_size=1, max_size=6, unique=True)


@given(st.data(), PHASES, st.integers(40, 200))
def test_every_answer_is_seen_and_no_line_is_too_wide(data: st.DataObject, phases: list[str], width: int) -> None:
    marks = [f"MARK{i}" for i in range(len(phases))]
    answers = tuple(
        PhaseAnswer(phase, f"{mark} {data.draw(TEXTS)}", data.draw(st.sampled_from(["stop", "max_tokens"])), True)
        for phase, mark in zip(phases, marks, strict=True)
    )
    shown = [SideBySide("PROMPT " + data.draw(TEXTS), answers), SideBySide("LATER", answers[:1])]
    file = io.StringIO()
    console = Screen(file=file, force_terminal=False, width=width, color_system=None, legacy_windows=False)
    report_answers.show(console, shown)
    lines = file.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert "\x1b" not in file.getvalue()
    for mark in marks:
        assert file.getvalue().count(mark) == (2 if mark == "MARK0" else 1)
    assert "PROMPT" in file.getvalue() and "LATER" in file.getvalue()
