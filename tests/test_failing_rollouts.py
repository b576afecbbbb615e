"""Rollouts that come to nothing: rewards that fail, weights that are no numbers any more, and signals while answers are
drawn. The step is named, at the key concerned; what was before it is saved; the same run goes on, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny
from test_going_back import Recorder

from llmspec.compiler import compile_spec
from llmspec.core.problems import LlmspecError, Problem, RunError
from llmspec.parts.rewards.length import Length
from llmspec.runs import checkpoint
from llmspec.spec import load_spec
from llmspec.training.run import run
from llmspec.training.stop import Interrupted
from llmspec.training.tasks import rollouts

SEEN = ("phases.phase.budget=8 steps", "phases.phase.evaluate_every=100%", "phases.phase.sample_every=100%")
SETS = (*SEEN, "phases.phase.checkpoint_every=100%")
"""Two rollouts of four steps."""
PER_ROLLOUT = 4
Straight = Callable[[str], tuple[int, dict[str, bytes]]]


def trained(folder: Path, *sets: str, kind: str = "grpo") -> Recorder:
    text, own = phase_kinds.spec_of(kind)
    watcher = Recorder()
    run(compile_spec(load_spec(tiny.write(folder, text), [*own, *SETS, *sets]).spec), folder / "run", watcher=watcher)
    return watcher


def left(folder: Path) -> tuple[int, dict[str, bytes]]:
    """(the step of the newest checkpoint, its files and the metrics up to there)."""
    place = folder / "run/phase"
    newest, _ = checkpoint.newest(place)
    assert newest is not None
    files = (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.TASK, checkpoint.CURSOR)
    found = {name: (newest.folder / name).read_bytes() for name in files}
    return newest.step, found | {"metrics": (place / "metrics.jsonl").read_bytes()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """What a run leaves that nothing disturbs, by its kind of phase."""

    @cache
    def of(kind: str) -> tuple[int, dict[str, bytes]]:
        folder = tmp_path_factory.mktemp(kind)
        trained(folder, kind=kind)
        return left(folder)

    return of


def failing(monkeypatch: pytest.MonkeyPatch, at: int, gives: Any) -> None:
    """The call `at` of the reward, and all behind it, give this, or raise it."""
    calls, score = 0, Length.score

    def scored(self: Length, answer: Any) -> float:
        nonlocal calls
        calls += 1
        if calls < at:
            return score(self, answer)
        if isinstance(gives, Exception):
            raise gives
        return float(gives)

    monkeypatch.setattr(Length, "score", scored)


ADDED = "phases.phase.reward={kind: sum, of: {ends: {kind: ended}, long: {kind: length, least: 9}}}"


@pytest.mark.parametrize(
    ("gives", "more", "path", "said"),
    [
        (float("nan"), (), (), "the reward `length` is nan for the answer"),
        (1e39, (), (), "the reward `length` is 1e+39 for the answer"),
        (
            ZeroDivisionError("by zero"),
            (ADDED,),
            ("of", "long"),
            "the reward `long` failed: ZeroDivisionError: by zero",
        ),
        (LlmspecError(Problem("its library is gone", ("elsewhere",))), (), (), "its library is gone"),
    ],
)
def test_a_reward_that_fails_stops_before_its_step_and_all_before_it_is_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    straight: Straight,
    gives: Any,
    more: tuple[str, ...],
    path: tuple[str, ...],
    said: str,
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, PER_ROLLOUT + 2, gives)  # answers of the second rollout
        with pytest.raises(RunError) as caught:
            trained(tmp_path, *more)
    (problem,) = caught.value.problems
    assert problem.path == ("phases", "phase", "reward", *path)
    assert f"phase stops before step 5: {said}" in problem.message
    assert "the weights of after step 4 are saved in" in problem.consequence
    assert left(tmp_path)[0] == 4
    heard = trained(tmp_path, *more)
    assert [step.step for step in heard.steps if heard.phases[-1] == "phase"][-4:] == [5, 6, 7, 8]
    assert more or left(tmp_path) == straight("grpo")


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_updates_that_leave_the_ceiling_behind_are_told_where_no_rollout_follows(tmp_path: Path, kind: str) -> None:
    held = ("phases.phase.budget=4 steps", "phases.phase.kl_ceiling=1e-12")
    heard = trained(tmp_path, *held, "phases.phase.optimizer.lr=3e-2", kind=kind)
    assert left(tmp_path)[0] == 4
    (told,) = [said for said in heard.notices if "its last updates have left it" in said]
    assert told.startswith("phase: ") and "above `kl_ceiling: 1e-12`" in told
    (other := tmp_path / "other").mkdir()
    quiet = trained(other, held[0], "phases.phase.kl_ceiling=1e6", kind=kind)
    assert not [said for said in quiet.notices if "its last updates" in said]


def test_a_reward_that_fails_on_held_out_prompts_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are as good as before, and what was trained is not thrown away for a number that is only shown."""
    failing(monkeypatch, 2 * PER_ROLLOUT + 1, ZeroDivisionError("by zero"))
    heard = trained(tmp_path)
    assert left(tmp_path)[0] == 8
    (told,) = [said for said in heard.notices if "validation of facts" in said]
    assert "phase, validation of facts: the reward `length` failed: ZeroDivisionError" in told


def test_weights_that_are_no_numbers_any_more_are_named_with_their_step(tmp_path: Path) -> None:
    # Of PPO, which has values to learn even where all answers are worth the same.
    sets = ("phases.phase.optimizer={kind: sgd, lr: 1e30}", "phases.phase.max_grad_norm=null")
    with pytest.raises(RunError) as caught:
        trained(tmp_path, *sets, kind="ppo")
    (problem,) = caught.value.problems
    assert " of phase" in problem.message and " at step " in problem.message
    assert problem.path == ("phases", "phase", "optimizer", "lr") and "a lower learning rate" in problem.hint


class Killed(BaseException):
    """The process is gone: nothing of what follows is done."""


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, None], ids=["SIGINT", "SIGTERM", "killed"])
def test_a_run_that_ends_while_answers_are_drawn_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Straight, kind: str, how: Any
) -> None:
    """A signal lets the step be taken and saves; of a process that is killed, the last checkpoint stays."""
    draw, ends = rollouts.draw, Killed if how is None else Interrupted

    def cut(decoder: Any, codec: Any, prompts: Any, decoding: Any, n: int, seed: Any, *more: Any) -> Iterator[Any]:
        for i, answer in enumerate(draw(decoder, codec, prompts, decoding, n, seed, *more)):
            if i == 2 and seed[1:] == ("phase", 1):
                if how is None:
                    raise Killed
                os.kill(os.getpid(), how)
            yield answer

    saved = "phases.phase.checkpoint_every=3 steps"
    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "draw", cut)
        with pytest.raises(ends):
            trained(tmp_path, saved, kind=kind)
    assert left(tmp_path)[0] == (3 if how is None else 5)
    trained(tmp_path, saved, kind=kind)
    assert left(tmp_path) == straight(kind)
