"""`llmspec gc`: what no spec needs can go, and nothing that one needs ever does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import tiny
from test_going_back import SHORT, trained
from typer.testing import CliRunner

from llmspec.api_runs import needed_by
from llmspec.cli.app import app
from llmspec.runs.garbage import Needed, in_cache, in_runs
from llmspec.runs.run import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has been trained with three settings; a spec for two of them lies beside it."""
    folder = tmp_path_factory.mktemp("gc")
    trained(folder, "seed=1")
    trained(folder, "seed=2")
    trained(folder)
    tiny.write(folder, SHORT, "tiny.yaml")
    tiny.write(folder, SHORT.replace("seed: 7", "seed: 1"), "one.yaml")
    return folder


def called(folder: Path, *arguments: str) -> str:
    said = CliRunner().invoke(app, ["gc", str(folder / "run"), "--specs", str(folder), *arguments])
    assert said.exit_code == 0, said.output
    return said.output


def test_what_no_spec_has_can_go_and_nothing_else(folder: Path) -> None:
    (folder / "run/first/.step_3.77").mkdir()
    (folder / "run/first/.step_3.77/x").write_text("half")
    before = set((folder / "run").rglob("*"))
    found = in_runs(folder / "run", needed_by(folder))
    keys = {RunFolder(folder / "run").phase(g.path.name).about.get("key") for g in found if "first." in str(g.path)}
    assert len(found) == 3 and len(keys) == 1, "both phases of seed 2, and what is half-written"
    assert "--yes frees it" in called(folder) and set((folder / "run").rglob("*")) == before
    assert " freed" in called(folder, "--yes") and "nothing can go" in called(folder)
    assert trained(folder, "seed=1").phases == [] and trained(folder).phases == [], "what the specs need is there"
    assert trained(folder, "seed=2").phases == ["first", "second"]


def test_what_cannot_be_known_stays(folder: Path, tmp_path: Path) -> None:
    tiny.write(tmp_path, "name: x\nphases: {a: [", "broken.yaml")
    needed = needed_by(tmp_path)
    assert "broken.yaml" in needed.everything and in_runs(folder / "run", needed) == []
    assert in_runs(folder / "run", Needed(names=frozenset({"first", "second"}))) == []


def test_caches_by_age_and_by_size(tmp_path: Path) -> None:
    for i, age in enumerate((100, 50, 1)):
        entry = tmp_path / "tokens" / str(i)
        entry.mkdir(parents=True)
        (entry / "x").write_bytes(bytes(10))
        os.utime(entry / "x", (time.time() - age * 86_400,) * 2)
    (tmp_path / "steps.json").write_text("{}")

    def names(**given: float | int | None) -> list[str]:
        asked = {"older_than": None, "most": None, **given}
        return [g.path.name for g in in_cache(tmp_path, asked["older_than"], asked["most"])]  # type: ignore[arg-type]

    assert names(older_than=30) == ["0", "1"] and names(older_than=60) == ["0"]
    assert names(most=15) == ["0", "1"] and names(most=30) == [] and names(most=0) == ["0", "1", "2"]
    said = CliRunner().invoke(app, ["gc", "--caches"])
    assert said.exit_code == 2 and "--older-than 30" in said.output
