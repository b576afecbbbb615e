"""What was trained is taken when a run returns to its settings; what only shows never trains anything again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.core import run_names
from llmspec.core.problems import RunError
from llmspec.runs import aside, checkpoint
from llmspec.runs.run import PhaseFolder
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder, Step
from llmspec.training.run import run

DOCS, FACTS, PHASES = (tiny.TINY.index(key) for key in ("    docs:", "    facts:", "phases:"))
SHORT = (
    tiny.TINY[:DOCS]
    + tiny.TINY[FACTS:PHASES]
    + """\
phases:
  first: {kind: pretrain, mixture: {facts: 100%}, budget: 6 steps, micro_batch_size: 2, checkpoint_every: 2 steps}
  second: {kind: sft, from: first, mixture: {facts: 100%}, budget: 4 steps, micro_batch_size: 2, prompts: [one]}
decoding: {max_tokens: 4}
"""
)


class Halting(Recorder):
    """Stops as Ctrl-C does, after some step of some phase."""

    def __init__(self, phase: str, step: int) -> None:
        super().__init__()
        self.at = (phase, step)

    def stepped(self, step: Step) -> None:
        super().stepped(step)
        if (self.phases[-1], step.step) == self.at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


def trained(folder: Path, *sets: str, watcher: Recorder | None = None) -> Recorder:
    """Runs the short spec into folder/run; what was heard."""
    watcher = watcher or Recorder()
    plan = compile_spec(load_spec(tiny.write(folder, SHORT), sets).spec)
    run(plan, folder / "run", watcher=watcher, files={"tiny.yaml": SHORT})
    return watcher


def weights(folder: Path, phase: str) -> bytes:
    newest, notices = checkpoint.newest(folder / "run" / phase)
    assert newest is not None and not notices
    return (newest.folder / checkpoint.WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("before")
    assert trained(folder).phases == ["first", "second"]
    return folder


@pytest.fixture
def folder(before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(before, tmp_path / "again")


def test_going_back_takes_what_is_kept(folder: Path) -> None:
    first, second = weights(folder, "first"), weights(folder, "second")
    there = trained(folder, "seed=9")
    assert there.phases == ["first", "second"] and weights(folder, "first") != first
    assert all("other settings is kept in" in n for n in there.notices if "has changed" in n)
    back = trained(folder)
    assert (back.phases, back.taken) == ([], ["first", "second"]), "nothing is trained again"
    assert (weights(folder, "first"), weights(folder, "second")) == (first, second)
    said = [n for n in back.notices if "restored from" in n]
    assert len(said) == 2 and all("what was trained with other settings is kept in" in n for n in said)
    assert trained(folder, "seed=9").taken == ["first", "second"], "nor is the other way"


def test_everything_that_a_run_writes_is_reserved(before: Path) -> None:
    """A file that is added to a run is found here, until it is among the names that no phase may take."""
    found = {path.name for path in (before / "run").iterdir()}
    assert found == {*run_names.WRITTEN, "first", "second"}


def test_one_phase_goes_back_alone(folder: Path) -> None:
    trained(folder, "phases.second.optimizer.lr=1e-5")
    assert trained(folder).taken == ["first", "second"]


def test_what_was_cut_short_comes_back_and_goes_on(folder: Path) -> None:
    from llmspec.training.stop import Interrupted

    with pytest.raises(Interrupted):
        trained(folder, "seed=5", watcher=Halting("first", 4))
    trained(folder)
    back = trained(folder, "seed=5")
    assert back.phases == ["first", "second"] and [s.step for s in back.steps][:2] == [5, 6]
    straight = folder.with_name("straight")
    straight.mkdir()
    trained(straight, "seed=5")
    assert weights(straight, "second") == weights(folder, "second")


def test_what_only_shows_trains_nothing_again(folder: Path) -> None:
    shown = [
        f"phases.{p}.{key}"
        for p in ("first", "second")
        for key in ("evaluate_every=1 steps", "sample_every=3 steps", "checkpoint_every=1 steps", "prompts=[two]")
    ]
    assert trained(folder, *shown).taken == ["first", "second"]
    fresh = folder.with_name("fresh")
    fresh.mkdir()
    trained(fresh, *shown)
    assert weights(fresh, "second") == weights(folder, "second"), "and it shapes no weight"


def test_of_several_the_furthest_comes_back_and_the_damaged_stay(tmp_path: Path) -> None:
    import numpy as np

    def kept(name: str, key: str, step: int, done: bool) -> Path:
        checkpoint.save(tmp_path / name, step, {"w": np.ones(2, np.float32)}, {}, {"key": key})
        PhaseFolder(tmp_path / name).note(key=key, done=done)
        return tmp_path / name

    key = "a" * 64
    kept(f"p.{key[:8]}", key, 9, False)
    best = kept(f"p.{key[:8]}.2", key, 4, True)
    kept("p.other", key, 50, True)  # no name that a run gives
    kept("pp.aaaaaaaa", key, 50, True)  # of another phase
    for name, text in (("p.bbbbbbbb", "{"), ("p.cccccccc", "[]"), ("p.dddddddd", '{"key": 3}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "phase.json").write_text(text)
    place = PhaseFolder(tmp_path / "p")
    assert aside.put_in_place(place, "b" * 64) == (None, None)
    assert aside.put_in_place(place, key) == (None, best) and place.about["done"]
    assert aside.put_in_place(place, key) == (None, None), "what is right stays"
    moved, back = aside.put_in_place(place, "e" * 64)
    assert moved == best and back is None


@pytest.mark.parametrize("key", ["../../x", "", "/etc", "ABC"])
def test_an_odd_key_leads_nowhere_else(tmp_path: Path, key: str) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "phase.json").write_text(json.dumps({"key": key}))
    moved = aside.set_aside(PhaseFolder(tmp_path / "p"), "a" * 64)
    assert moved is not None and moved.parent == tmp_path and moved.is_dir()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((), "no checkpoint of first had been written yet"),
        (
            ("phases.first.checkpoint_every=1 steps", "phases.first.schedule.warmup=3 steps"),
            "the checkpoint of step 1 is",
        ),
    ],
)
def test_a_loss_that_is_no_number_says_which_checkpoint_there_is(
    tmp_path: Path, sets: tuple[str, ...], said: str
) -> None:
    high = ("phases.first.optimizer.kind=sgd", "phases.first.optimizer.lr=1e30", "phases.first.max_grad_norm=null")
    with pytest.raises(RunError) as caught:
        trained(tmp_path, *high, *sets)
    (problem,) = caught.value.problems
    newest, _ = checkpoint.newest(tmp_path / "run" / "first")
    assert said in problem.consequence and "`max_grad_norm: 1.0`" in problem.hint and "1e+30" in problem.hint
    assert (newest is None) == ("no checkpoint" in said)
    if newest is not None:
        assert str(newest.folder) in problem.consequence
