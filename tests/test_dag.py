"""Phases as a graph: branches that share an ancestor, a choice of them, and what a run would do before it does it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from test_explain import printed
from test_going_back import Halting

from llmspec.api import explained_pair
from llmspec.api_runs import planned_run
from llmspec.compiler import compile_spec
from llmspec.core.problems import LlmspecError, RunError
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder
from llmspec.training.run import run
from llmspec.training.selection import Selection, chosen
from llmspec.training.stop import Interrupted

BEGIN = (
    tiny.TINY[: tiny.TINY.index("    docs:")] + tiny.TINY[tiny.TINY.index("    facts:") : tiny.TINY.index("phases:")]
)
BRANCHES = (
    BEGIN
    + """\
phases:
  base: {kind: pretrain, mixture: {facts: 100%}, budget: 4 steps, micro_batch_size: 2, checkpoint_every: 1 steps}
  left: {kind: sft, from: base, mixture: {facts: 100%}, budget: 3 steps, micro_batch_size: 2, prompts: [one]}
  right: {kind: pretrain, from: base, mixture: {facts: 100%}, budget: 2 steps, micro_batch_size: 2}
  tip: {kind: pretrain, from: right, mixture: {facts: 100%}, budget: 2 steps, micro_batch_size: 2}
decoding: {max_tokens: 4}
"""
)
"""base → left, base → right → tip."""
LEFT, RIGHT = ("phases.left.optimizer.lr=1e-5",), ("phases.right.optimizer.lr=1e-5",)


def trained(folder: Path, *sets: str, watcher: Recorder | None = None, selection: Selection | None = None) -> Recorder:
    watcher = watcher or Recorder()
    plan = compile_spec(load_spec(tiny.write(folder, BRANCHES), sets).spec)
    run(plan, folder / "run", watcher=watcher, **({"selection": selection} if selection else {}))
    return watcher


def deeds(folder: Path, *sets: str, only: tuple[str, ...] = (), start: str = "") -> dict[str, str]:
    report = planned_run(tiny.write(folder, BRANCHES), folder / "run", list(sets), only, start)
    return {p.name: p.deed for p in report.phases}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("branches")
    assert trained(folder).phases == ["base", "left", "right", "tip"]
    return folder


@pytest.fixture
def folder(before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(before, tmp_path / "again")


@pytest.mark.parametrize(
    ("sets", "anew"),
    [
        ((), []),
        (LEFT, ["left"]),
        (RIGHT, ["right", "tip"]),
        (("phases.base.budget=5 steps",), ["base", "left", "right", "tip"]),
        (("phases.tip.prompts=[two]",), []),
    ],
)
def test_a_dry_run_says_what_a_run_does(folder: Path, sets: tuple[str, ...], anew: list[str]) -> None:
    """And a phase is trained where something that it depends on changed, and nowhere else."""
    said = deeds(folder, *sets)
    assert [name for name, deed in said.items() if deed == "trained"] == anew
    # Nothing was written for it: its plan is still the earlier one.
    assert not [p for p in (folder / "run").iterdir() if p.name.startswith(tuple(f"{n}." for n in said))]
    differing = explained_pair(folder / "run", tiny.write(folder, BRANCHES), list(sets))
    assert [p.name for p in differing.phases if p.fate == "retrained"] == anew
    heard = trained(folder, *sets)
    assert heard.phases == anew and heard.taken == [n for n in said if n not in anew]


def test_reasons(folder: Path) -> None:
    report = planned_run(tiny.write(folder, BRANCHES), folder / "run", list(RIGHT))
    why = {p.name: p.why for p in report.phases}
    assert why["right"] == "changed: phases.right.optimizer.lr" and why["tip"] == "changed: right is trained again"
    assert "right" in printed(report, 100) and "phases.right.optimizer.lr" in printed(report, 100)
    assert report.as_data()["report"] == "dry run"


def test_going_back_is_foretold(folder: Path) -> None:
    trained(folder, *RIGHT)
    trained(folder, "phases.right.optimizer.lr=1e-6")
    report = planned_run(tiny.write(folder, BRANCHES), folder / "run", [])
    assert {p.deed for p in report.phases} == {"taken"}
    assert [p.name for p in report.phases if "restored" in p.why] == ["right", "tip"]
    heard = trained(folder)
    assert heard.phases == [] and trained(folder, *RIGHT).phases == [], "any number of earlier settings is found"


def test_what_was_cut_short_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path, watcher=Halting("base", 2))
    report = planned_run(tiny.write(tmp_path, BRANCHES), tmp_path / "run", [])
    assert [(p.deed, p.steps) for p in report.phases][:2] == [("goes on", 2), ("trained", 3)]


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(("base",)), ["base"]),
        (Selection(start="right"), ["right", "tip"]),
        (Selection(("left", "base")), ["base", "left"]),
        (Selection(start="base"), ["base", "left", "right", "tip"]),
    ],
)
def test_a_choice_of_phases(before: Path, selection: Selection, names: list[str]) -> None:
    plan = RunFolder(before / "run").plan()
    assert list(chosen(plan, selection)) == names


def test_one_phase_and_then_a_branch(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="base is not trained with these settings"):
        trained(tmp_path, selection=Selection(("left",)))
    assert deeds(tmp_path, only=("left",)) == {"base": "missing", "left": "trained"} | dict.fromkeys(
        ("right", "tip"), "left out"
    )
    first = trained(tmp_path, selection=Selection(("base",)))
    assert first.phases == ["base"] and any("left, right, tip stay as they are" in n for n in first.notices)
    branch = trained(tmp_path, selection=Selection(start="right"))
    assert (branch.taken, branch.phases) == (["base"], ["right", "tip"])
    assert deeds(tmp_path) == {"base": "taken", "left": "trained", "right": "taken", "tip": "taken"}
    whole = trained(tmp_path)
    assert whole.phases == ["left"]


def test_a_phase_that_is_none_is_told_before_anything(tmp_path: Path) -> None:
    with pytest.raises(LlmspecError, match="no phase is called `rigth`") as caught:
        trained(tmp_path, selection=Selection(start="rigth"))
    assert "did you mean `right`?" in caught.value.problems[0].hint and not (tmp_path / "run").exists()


def test_the_verb(tmp_path: Path) -> None:
    spec = tiny.write(tmp_path, BRANCHES)
    said = tiny.call("run", spec, "--out", tmp_path / "run", "--dry-run", "--from", "right")
    assert said.returncode == 0, said.stderr
    words = " ".join(said.stdout.split())
    assert "nothing is there yet" in words and "nothing is trained" in words
    assert not (tmp_path / "run").exists()
    both = tiny.call("run", spec, "--only", "base", "--from", "right")
    assert both.returncode == 2 and "cannot be given together" in both.stderr
