"""What an update did to one token, as `explain RUN --part phases.NAME` tells it: the run's own numbers, both sides of
the ratio taken from its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import small
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_explain import assert_fits, printed

import llmspec
from llmspec.api import explained_part, known
from llmspec.explain.lesson import Lesson, lesson_of
from llmspec.explain.token_ratios import log_probabilities
from llmspec.parts.objectives.grpo import GRPO
from llmspec.render import report_lesson
from llmspec.runs.checkpoint import Checkpoint
from llmspec.runs.run import RunFolder

TEMPERATURE = 1.5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates, each on a rollout of its own; the weights before and after the last are kept."""
    folder = tmp_path_factory.mktemp("lesson")
    text, own = phase_kinds.spec_of("grpo")
    sets = {
        "budget": "2 steps",
        "checkpoint_every": "1 steps",
        "mini_batches": "1",
        "micro_batch_size": "6",
        "epochs_per_rollout": "1",
        "answers_per_prompt": "3",
        "temperature": str(TEMPERATURE),
        "optimizer.lr": "3e-2",
        "schedule": "{kind: constant, warmup: 0%}",
        "reward": "{kind: regex, pattern: '[a-z]'}",
        "evaluate_every": "0%",
    }
    spec = llmspec.load_spec(tiny.write(folder, text), [*own, *(f"phases.phase.{k}={v}" for k, v in sets.items())])
    return llmspec.run(llmspec.compile(spec.spec), folder / "run").path


@pytest.fixture(scope="module")
def lesson(run: Path) -> Lesson:
    found = lesson_of(RunFolder.open(run), "phase", lambda *told: None)
    assert isinstance(found, Lesson)
    return found


def test_both_sides_of_the_ratio_are_those_of_the_checkpoints(run: Path, lesson: Lesson) -> None:
    """The token was drawn by the weights after step 1, and is judged by those after step 2."""
    after = llmspec.open(run, phase="phase")
    steps = sorted((run / "phase").glob("step_*"))
    assert [s.name for s in steps] == ["step_1", "step_2"] and (lesson.step, lesson.updates) == (2, 1)
    before = _with_weights(after, run, 1)
    # The answer, found again by its text among those that the phase's own decoder draws: here by its tokens.
    prompt, said, at = _tokens(run, lesson)
    logps = [log_probabilities(m, prompt, said, TEMPERATURE)[at, said[at]] for m in (before, after)]
    assert (lesson.old_logp, lesson.new_logp) == pytest.approx(logps, abs=1e-4)
    assert lesson.ratio == pytest.approx(math.exp(logps[1] - logps[0]), rel=1e-4) and lesson.ratio != 1
    assert lesson.reference_logp is not None
    changes = [
        log_probabilities(after, prompt, said, TEMPERATURE)[i, t]
        - log_probabilities(before, prompt, said, TEMPERATURE)[i, t]
        for i, t in enumerate(said)
    ]
    assert abs(changes[at]) == pytest.approx(max(map(abs, changes)), abs=1e-4), "the one that has changed most"


@pytest.mark.nightly
def test_what_was_expected_and_what_came_are_those_of_the_value_function(tmp_path: Path) -> None:
    """The first rollout is drawn by the weights that the phase starts with, which are its reference, too."""
    text, own = phase_kinds.spec_of("ppo")
    sets = {
        "budget": "1 steps",
        "mini_batches": "1",
        "epochs_per_rollout": "1",
        "micro_batch_size": "4",
        "whiten_advantages": "false",
        "reward": "{kind: regex, pattern: '[a-z]'}",
        "evaluate_every": "0%",
    }
    spec = llmspec.load_spec(tiny.write(tmp_path, text), [*own, *(f"phases.phase.{k}={v}" for k, v in sets.items())])
    run = llmspec.run(llmspec.compile(spec.spec), tmp_path / "run").path
    found = lesson_of(RunFolder.open(run), "phase", lambda *told: None)
    assert isinstance(found, Lesson) and found.value is not None and found.returns is not None
    assert found.advantage == pytest.approx(found.returns - found.value, abs=1e-5) and found.value
    prompt, said, at = _tokens(run, found)
    before, after = (llmspec.open(run, phase=name) for name in ("before", "phase"))
    logps = [log_probabilities(m, prompt, said)[at, said[at]] for m in (before, after)]
    assert (found.old_logp, found.new_logp, found.reference_logp) == pytest.approx((*logps, logps[0]), abs=1e-4)
    assert (found.low, found.high, len(found.group)) == (0.8, 1.2, 1)


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_the_lesson_is_of_the_middle_of_a_phase(kind: str, tmp_path: Path) -> None:
    """There the learning rate is far from 0; what is told is what the checkpoint of that step tells by itself."""
    text, own = phase_kinds.spec_of(kind)
    sets = {
        "checkpoint_every": "2 steps",
        "mini_batches": "2",
        "epochs_per_rollout": "1",
        "micro_batch_size": "4" if kind == "grpo" else "2",
        "temperature": str(TEMPERATURE),
        "optimizer.lr": "1e-2",
        "schedule": "{kind: linear, warmup: 0%}",
        "reward": "{kind: regex, pattern: '[a-z]'}",
        "evaluate_every": "0%",
    }
    given = {f"phases.phase.{key}": value for key, value in sets.items()}

    def run(steps: int, name: str) -> RunFolder:
        keys = [*own, *(f"{key}={value}" for key, value in given.items()), f"phases.phase.budget={steps} steps"]
        spec = llmspec.load_spec(tiny.write(tmp_path, text), keys)
        return RunFolder.open(llmspec.run(llmspec.compile(spec.spec), tmp_path / name).path)

    whole = run(6, "whole")
    found = lesson_of(whole, "phase", lambda *told: None)
    assert isinstance(found, Lesson) and (found.step, found.updates) == (4, 2) and found.ratio != 1
    kept = json.loads(next((whole.path / "phase").glob("step_6/cursor.json")).read_text("utf-8"))["task"]["lesson"]
    assert kept["ratio"] == found.ratio
    place = whole.path / "phase"
    for later in place.glob("step_6*"):
        shutil.rmtree(later)
    stopped = Checkpoint(place / "step_4", 4)
    assert "lesson" not in stopped.cursor()["task"], "its next rollout is still to come"
    again = lesson_of(RunFolder.open(whole.path), "phase", lambda *told: None)
    assert isinstance(again, Lesson)
    as_numbers = {name: value for name, value in dataclasses.asdict(again).items() if isinstance(value, float)}
    assert as_numbers == pytest.approx({name: getattr(found, name) for name in as_numbers}, abs=1e-4)


def _with_weights(model: Any, run: Path, step: int) -> Any:
    from llmspec.decoding.language_model import LanguageModel

    saved = Checkpoint(run / "phase" / f"step_{step}", step)
    weights = saved.weights({t.name: t.shape for t in model.plan.model.stored})
    return LanguageModel(model.plan, model.codec, weights, "phase", chat=True)


def _tokens(run: Path, lesson: Lesson) -> tuple[list[int], list[int], int]:
    """(prompt, answer, place of the token) as they lie in the checkpoint."""
    folder = RunFolder.open(run)
    model = llmspec.open(run, phase="phase")
    saved, _ = folder.phase("phase").checkpoint()
    assert saved is not None
    import numpy as np
    from safetensors.numpy import load_file

    found = load_file(saved.folder / "task.safetensors")
    for tokens, length in zip(found["tokens"].astype(int), found["lengths"].astype(int), strict=True):
        said = [int(t) for t in tokens[:length]]
        for at in range(length):
            if (model.codec.decode(said[:at]), model.codec.decode(said[at + 1 :])) == (lesson.before, lesson.after):
                logps = found["by_token/logps"]
                if np.isclose(logps, lesson.old_logp, atol=1e-6).any():
                    return model.tokens(lesson.prompt), said, at
    raise AssertionError("no answer has this token")


def test_the_advantage_is_that_of_its_group(lesson: Lesson) -> None:
    scores = lesson.group
    assert len(scores) == 3 and lesson.score in scores and lesson.rewards == {"regex": lesson.score}
    apart = (lesson.score - statistics.mean(scores)) / (statistics.stdev(scores) + 1e-4)
    assert lesson.advantage == pytest.approx(apart, rel=1e-6) and lesson.advantage
    assert (lesson.value, lesson.returns) == (None, None), "there is no value function"
    assert (lesson.low, lesson.high) == (0.8, 1.2)


def test_the_report_of_the_part_ends_with_it(run: Path, lesson: Lesson) -> None:
    report = explained_part(known(run, None), "phases.phase", run)
    assert report.lesson == lesson and not report.no_lesson
    assert_fits(report)
    said = printed(report, 100)
    assert f"A = {lesson.advantage:+.3f}" in said and f"r = {lesson.ratio:.3f}" in said
    status, shown = small.call("explain", str(run), "--part=phases.phase", "--json")
    assert status == 0 and json.loads(shown[shown.index("{") :])["lesson"]["ratio"] == lesson.ratio
    assert explained_part(known(run, None), "phases.phase.optimizer", run).lesson is None
    other = explained_part(known(run, None), "phases.before", run)
    assert other.lesson is None and not other.no_lesson, "it learns from no answers of its own"


# -- laws --------------------------------------------------------------------------------------------------------------
BLANK = Lesson(1, 1, "", "", "", "", True, {}, 0, (), None, None, 0.0, -1.0, -1.0, None, 1.0, 0.8, 1.3)


@given(st.floats(-5, 5), st.floats(0.05, 4))
def test_clipped_is_where_the_gain_has_no_slope(advantage: float, ratio: float) -> None:
    one = replace(BLANK, advantage=advantage, ratio=ratio)
    assert one.gain <= ratio * advantage + 1e-12
    step = 1e-6
    if min(abs(ratio - one.low), abs(ratio - one.high)) > step and abs(advantage) > 1e-3:
        slope = (replace(one, ratio=ratio + step).gain - one.gain) / step
        assert slope == pytest.approx(0 if one.clipped else advantage, rel=1e-3, abs=1e-4)
    words = report_lesson.verdict(one)
    assert ("no gradient" in words) == one.clipped or not advantage


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=9))
def test_a_ratio_of_answers_is_the_geometric_mean(changes: list[float]) -> None:
    token, answer = GRPO().ratios(changes), GRPO(importance_ratio="sequence").ratios(changes)
    assert token == pytest.approx([math.exp(c) for c in changes])
    assert answer == pytest.approx([math.prod(token) ** (1 / len(token))] * len(token))


def test_a_phase_without_a_ratio_says_that_it_has_no_lesson(tmp_path: Path) -> None:
    text, own = phase_kinds.spec_of("best_of_n")
    spec = llmspec.load_spec(tiny.write(tmp_path, text), [*own, "phases.phase.budget=1 steps"])
    run = llmspec.run(llmspec.compile(spec.spec), tmp_path / "run").path
    said = lesson_of(RunFolder.open(run), "phase", lambda *told: None)
    assert isinstance(said, str) and "as they stand" in said
    done = tiny.call("explain", run, "--part", "phases.phase")
    assert done.returncode == 0 and "as they stand" in " ".join((done.stdout + done.stderr).split())
