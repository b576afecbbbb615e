"""What shipped specs name beside their folder, where llmspec is installed and in a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmspec.spec import read_spec


def test_models_beside_the_shipped_specs_lie_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = (
        "phases: {p: {kind: ppo, from: {model: ../base}, reward: {kind: classifier, model: {model: ../runs/judge}}}}\n"
    )
    specs = tmp_path / "site-packages" / "llmspec" / "specs"
    for folder in (specs, tmp_path / "checkout" / "specs"):
        folder.mkdir(parents=True)
        (folder / "quickstart.yaml").write_text(asks)
    monkeypatch.setattr("llmspec.core.shipped.PACKAGE", specs.parent)
    monkeypatch.chdir(tmp_path)
    for spec, wanted in ((specs, ""), (tmp_path / "checkout" / "specs", "../")):
        phase = read_spec(spec / "quickstart.yaml").tree.data["phases"]["p"]
        assert (phase["from"]["model"], phase["reward"]["model"]["model"]) == (f"{wanted}base", f"{wanted}runs/judge")
