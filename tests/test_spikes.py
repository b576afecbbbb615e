"""Steps whose loss is far above those before them: found as the law says, never applied, the same after a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_explain import printed
from test_going_back import SHORT, Halting

from llmspec.backends.backend import backend
from llmspec.compiler import check_sections, compile_spec
from llmspec.compiler.masks import range_inputs
from llmspec.core.problems import RunError
from llmspec.explain.run import explain_run
from llmspec.model.weights import draw
from llmspec.parts.phases.course import OnSpike
from llmspec.runs import checkpoint
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec, read_spec
from llmspec.training.callbacks import Recorder
from llmspec.training.run import run
from llmspec.training.spikes import IN_A_ROW, Spikes
from llmspec.training.stop import Interrupted
from llmspec.training.trainer import StepTaken, Trainer

SPEC = SHORT.replace("budget: 6 steps", "budget: 16 steps, optimizer: {kind: adamw, lr: 2e-1}").replace(
    "2 steps}", "5 steps}"
)
SOON = "phases.first.on_spike={above: 0.3, window: 3}"
"""Spikes that a healthy phase has, too."""


def plain_spikes(losses: list[float], above: float, window: int) -> list[bool]:
    """Which steps are spikes, read off the definition: float64, every mean anew."""
    applied: list[float] = []
    found = []
    for loss in losses:
        before = np.array(applied[-window:], np.float64)
        spike = len(before) == window and before.std() > 0 and loss > before.mean() + above * before.std()
        found.append(bool(spike) or not math.isfinite(loss))
        applied += [] if found[-1] else [loss]
    return found


numbers = st.sampled_from([1.0, 1.1, 1.25, 1.5, 2.0, 9.0, 100.0, math.nan, math.inf])


@given(st.lists(numbers, max_size=30), st.sampled_from([0.7, 2.3, 6.1]), st.integers(2, 6), st.integers(0, 30))
def test_the_law_of_spikes(losses: list[float], above: float, window: int, cut: int) -> None:
    """Beside a plain reading, and the same where it is saved and goes on anywhere."""
    asked = OnSpike(above=above, window=window)
    spikes, row = Spikes(asked), 0
    for i, (loss, expected) in enumerate(zip(losses, plain_spikes(losses, above, window), strict=True)):
        if i == cut:
            saved, spikes = json.loads(json.dumps(spikes.dump(), allow_nan=False)), Spikes(asked)
            spikes.restore(saved)
        assert bool(spikes.why(loss)) == expected
        assert spikes.stops() == (row + 1 >= IN_A_ROW)
        spikes.taken(loss, expected)
        row = row + 1 if expected else 0
    assert spikes.skipped == sum(plain_spikes(losses, above, window)[: len(losses)])


def test_one_that_stops_leaves_numbers_that_are_none_to_the_end_of_the_run() -> None:
    assert not Spikes(OnSpike(action="stop")).why(math.nan) and Spikes(OnSpike()).why(math.nan)
    assert not Spikes(None).why(math.nan) and not Spikes(None).dump()


@pytest.mark.parametrize("saved", [{}, {"spikes": {"losses": [1.0, "2"], "skipped": 0, "row": 0}}, {"spikes": 3}])
def test_damage_is_found(saved: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="damaged"):
        Spikes(OnSpike()).restore(saved)


# -- one trainer -----------------------------------------------------------------------------------------------------
def trainer(folder: Path, *sets: str) -> Trainer:
    plan = compile_spec(load_spec(tiny.write(folder, SPEC), [SOON, *sets]).spec)
    return Trainer(plan, plan.phases[0], backend("CPU"), lambda t: draw(t, 3))


def batch(number: int, one: Trainer) -> dict[str, Any]:
    chance = np.random.default_rng(number)
    tokens = chance.integers(0, 250, (2, 16)).astype(np.int32)
    read = {"tokens": tokens, "targets": np.roll(tokens, -1, 1), "loss_weights": np.ones((2, 16), np.float32)}
    return {**read, **range_inputs(one.phase.model, False, 16)}


def held(one: Trainer) -> dict[str, bytes]:
    return {n: a.tobytes() for n, a in (one.weight_arrays() | one.state_arrays()).items()}


@pytest.mark.parametrize("broken", [False, True], ids=["a high loss", "no number"])
def test_a_skipped_step_leaves_nothing(tmp_path: Path, broken: bool) -> None:
    """Weights, state and what follows are those of a phase that never came to it; its norm is that of its gradient."""
    one, other = trainer(tmp_path), trainer(tmp_path)
    scalars = one.steps.updates.numbers(1.0, 1, 16)
    for each in (one, other):
        each.step([batch(0, each)], scalars, 0)
    before, bad = held(one), batch(1, one)
    if broken:
        bad["loss_weights"] = np.full((2, 16), np.nan, np.float32)
    one.refuses = lambda loss: f"its loss is {loss}"
    left: StepTaken = one.step([bad], scalars, 1)
    assert left.skipped and held(one) == before
    one.refuses = lambda loss: ""
    if not broken:
        assert left.norm == pytest.approx(trainer_norm(tmp_path, scalars), rel=1e-6)
    for each in (one, other):
        assert math.isfinite(each.step([batch(2, each)], scalars, 2).norm)
    assert held(one) == held(other) != before


def trainer_norm(folder: Path, scalars: tuple[float, ...]) -> float:
    """Of the step after the first, taken."""
    one = trainer(folder)
    one.step([batch(0, one)], scalars, 0)
    return one.step([batch(1, one)], scalars, 1).norm


# -- runs ------------------------------------------------------------------------------------------------------------
def trained(folder: Path, *sets: str, watcher: Recorder | None = None) -> Recorder:
    folder.mkdir(exist_ok=True)
    watcher = watcher or Recorder()
    run(compile_spec(load_spec(tiny.write(folder, SPEC), [SOON, *sets]).spec), folder / "run", watcher=watcher)
    return watcher


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in RunFolder(folder / "run").phase("first").metrics.read() if "lr" in row]


def left_by(folder: Path) -> list[bytes]:
    newest, _ = checkpoint.newest(folder / "run/first")
    assert newest is not None
    names = (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR)
    return [*((newest.folder / n).read_bytes() for n in names), (folder / "run/first/metrics.jsonl").read_bytes()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    folder = tmp_path_factory.mktemp("straight")
    return folder, trained(folder)


def test_it_is_counted_and_said(straight: tuple[Path, Recorder]) -> None:
    folder, heard = straight
    found = rows(folder)
    expected = plain_spikes([row["loss"] for row in found], 0.3, 3)
    steps = tuple(i for i, spike in enumerate(expected, 1) if spike)
    assert 0 < len(steps) < 12 and [row.get("skipped", False) for row in found] == expected
    assert len(found) == 16 and heard.steps[15].skipped == len(steps)
    assert sum("is skipped: its loss" in n for n in heard.notices) == len(steps)
    report = explain_run(RunFolder.open(folder / "run"))
    assert report.phases[0].skipped == steps and report.phases[0].step == 16
    shown = printed(report, 100)
    assert "skipped, whose loss was a spike: " in shown and "the counts match the plan" in shown


def test_the_same_however_often_it_is_stopped(straight: tuple[Path, Recorder], tmp_path: Path) -> None:
    folder, _ = straight
    skipped = next(i for i, row in enumerate(rows(folder), 1) if row.get("skipped"))
    for step in (skipped, skipped + 2):
        with pytest.raises(Interrupted):
            trained(tmp_path, watcher=Halting("first", step))
    trained(tmp_path)
    assert left_by(tmp_path) == left_by(folder)


def test_it_stops_with_what_was_before(straight: tuple[Path, Recorder], tmp_path: Path) -> None:
    folder, _ = straight
    skipped = next(i for i, row in enumerate(rows(folder), 1) if row.get("skipped"))
    stop = "phases.first.on_spike.action=stop"
    for _ in range(2):
        with pytest.raises(RunError, match=f"first stops before step {skipped}: its loss .* standard deviations above"):
            trained(tmp_path, stop)
    newest, _ = checkpoint.newest(tmp_path / "run/first")
    assert newest is not None and newest.step == skipped - 1
    assert [row["loss"] for row in rows(tmp_path)] == [row["loss"] for row in rows(folder)[: skipped - 1]]


def test_nothing_is_another_step_where_there_is_no_spike(tmp_path: Path) -> None:
    """The update apart from its pass is the update within it."""
    trained(tmp_path / "with", "phases.first.on_spike.above=1e9")
    trained(tmp_path / "without", "phases.first.on_spike=null")
    one, other = ([row["loss"] for row in rows(tmp_path / name)] for name in ("with", "without"))
    assert one == pytest.approx(other, rel=1e-5) and one[0] == other[0]


def test_a_mean_over_more_steps_than_there_are_is_refused(tmp_path: Path) -> None:
    found = read_spec(tiny.write(tmp_path, SPEC), ["phases.first.on_spike={above: 6}"])
    (problem,) = [*found.problems, *check_sections(found.sections, found.base)]
    assert problem.path == ("phases", "first", "on_spike", "above")
    assert "over 50 steps, and the phase has 16" in problem.message and "window: 2" in problem.hint
