"""What another run has trained with the same settings is found by its key, copied, and never needed afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from test_explain import printed
from test_going_back import SHORT
from typer.testing import CliRunner

from llmspec.api_runs import planned_run
from llmspec.cli.app import app
from llmspec.compiler import compile_spec
from llmspec.explain.compare import phase_differences
from llmspec.explain.run import explain_run
from llmspec.runs import checkpoint
from llmspec.runs.garbage import Needed, in_runs
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder
from llmspec.training.run import run
from llmspec.training.selection import ALL, Selection

REUSE = Selection(reuse=True)
OTHER = "phases.second.optimizer.lr=1e-5"


def trained(folder: Path, name: str, *sets: str, selection: Selection = REUSE) -> Recorder:
    watcher = Recorder()
    plan = compile_spec(load_spec(tiny.write(folder, SHORT), sets).spec)
    run(plan, folder / name, watcher=watcher, selection=selection)
    return watcher


def deeds(folder: Path, name: str, *sets: str, reuse: bool = True) -> dict[str, str]:
    report = planned_run(tiny.write(folder, SHORT), folder / name, list(sets), reuse=reuse)
    return {p.name: p.deed for p in report.phases}


def left(folder: Path, phase: str) -> dict[str, bytes]:
    saved, _ = checkpoint.newest(folder / phase)
    assert saved is not None
    return {p.name: p.read_bytes() for p in sorted(saved.folder.iterdir())}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one in it, which has gone on to other settings."""
    folder = tmp_path_factory.mktemp("runs")
    trained(folder, "one")
    trained(folder, "one", OTHER)
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "runs")


def test_two_specs_share_an_ancestor(folder: Path) -> None:
    """The dry run, the comparison of the plans and the run say the same; the copy is whole."""
    lower = "phases.second.optimizer.lr=2e-5"
    assert deeds(folder, "two", lower) == {"first": "taken", "second": "trained"}
    assert deeds(folder, "two", lower, reuse=False) == {"first": "trained", "second": "trained"}
    heard = trained(folder, "two", lower)
    assert heard.phases == ["second"] and heard.taken == ["first"]
    assert any(
        "first was trained with these settings in " in n and n.endswith("copied from there") for n in heard.notices
    )
    assert left(folder / "two", "first") == left(folder / "one", "first")
    plans = [RunFolder(folder / name).plan() for name in ("one", "two")]
    assert [d.fate for d in phase_differences(*plans)] == ["reused", "retrained"]
    shown = printed(explain_run(RunFolder.open(folder / "two")), 120)
    assert "trained in one/first, and copied from there" in shown


def test_settings_that_were_set_aside_elsewhere_are_found(folder: Path) -> None:
    aside = next(folder.glob("one/second.*"))
    heard = trained(folder, "two")
    assert heard.phases == [] and heard.taken == ["first", "second"]
    assert left(folder / "two", "second") == left(folder / "one", aside.name)
    shutil.rmtree(folder / "one")
    assert trained(folder, "two").taken == ["first", "second"], "a run stands alone"


def test_nothing_is_taken_that_was_not_asked_for_or_is_not_whole(folder: Path) -> None:
    weights = next((folder / "one/first").glob("step_6/weights*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    about = folder / "one/second/phase.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "done": False}))
    assert deeds(folder, "two", OTHER) == {"first": "trained", "second": "trained"}
    assert trained(folder, "two", OTHER).phases == ["first", "second"]
    assert not ALL.reuse and trained(folder, "three", OTHER, selection=ALL).phases == ["first", "second"]


def test_one_phase_alone_takes_what_it_starts_from(folder: Path) -> None:
    heard = trained(folder, "two", "phases.second.budget=2 steps", selection=Selection(("second",), "", True))
    assert heard.phases == ["second"] and heard.taken == ["first"]


def test_gc_keeps_what_another_run_would_take(folder: Path) -> None:
    aside = next(folder.glob("one/second.*"))
    (free,) = in_runs(folder, Needed())
    assert free.path == aside and "goes back to them trains anew" in free.why
    trained(folder, "two")  # which has the earlier settings in their place
    assert any("two/second has the same" in g.why for g in in_runs(folder / "one", Needed()))
    shutil.rmtree(folder / "two/second")
    for place in (folder, folder / "one"):
        assert aside not in [g.path for g in in_runs(place, Needed())], "what two has in its plan alone is one's"


def test_the_command_takes_it_unless_it_is_told_not_to(folder: Path) -> None:
    spec = tiny.write(folder, SHORT)
    said = CliRunner().invoke(app, ["run", str(spec), "--out", str(folder / "two")])
    assert said.exit_code == 0 and said.output.count("copied from there") == 2
    anew = ["run", str(spec), "--out", str(folder / "three"), "--no-reuse", "--only", "first"]
    said = CliRunner().invoke(app, anew)
    assert said.exit_code == 0 and "first: starts, 6 steps" in said.output
    assert left(folder / "two", "first") == left(folder / "three", "first"), "which comes to the same bits"
