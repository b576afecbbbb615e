"""The resume certificate: every phase kind goes on bit for bit, and one that forgets its state is found out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny
from test_explain import printed
from typer.testing import CliRunner

from llmspec.cli.app import app
from llmspec.compiler import compile_spec
from llmspec.explain.run import explain_run
from llmspec.parts import optimizers
from llmspec.runs.certificate import Certificate
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.certify import STEPS, certify
from llmspec.training.tasks import TASKS
from llmspec.training.tasks.pretrain import Pretrain


def certified(folder: Path, kind: str, *more: str, sets: tuple[str, ...] = ()) -> Certificate:
    text, own = phase_kinds.spec_of(kind, *more)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    plan = compile_spec(load_spec(tiny.write(folder, text), [*own, *sets]).spec)
    return certify(plan, folder / "run", chance=random.Random(seed))


ALIKE = ("dpo", "orpo")
"""Kinds whose tasks are another one's but for what they leave out: that of kto."""


def test_every_kind_has_its_case() -> None:
    kinds = {*map(phase_kinds.kind_of, phase_kinds.KINDS)}
    assert kinds == set(TASKS), "a new phase kind adds a smallest phase to tests/phase_kinds.py"


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.nightly] * (k in ALIKE)) for k in phase_kinds.KINDS]
)
def test_every_kind_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    """And its validation gives every metric that it says it gives."""
    text, own = phase_kinds.spec_of(kind)
    *_, planned = compile_spec(load_spec(tiny.write(tmp_path, text), own).spec).phases
    metric = list(planned.phase.measured())[-1]
    found = certified(tmp_path, kind, f"keep: {{best: 1, metric: {metric}}}")
    *before, phase = found.phases
    assert all(p.holds for p in before) and phase.holds and phase.steps == STEPS
    assert phase.kind == phase_kinds.kind_of(kind)
    assert len(phase.stopped_after) == 2 and phase.compared > 1000
    assert not (tmp_path / "run/.certify").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", list(optimizers.TABLE))
def test_every_optimizer_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    found = certified(tmp_path, "pretrain", sets=(f"phases.phase.optimizer={{kind: {kind}, lr: 1e-3}}",))
    assert found.phases[0].holds


class Forgetful(Pretrain):
    """Reads other text after it was resumed."""

    late = 0

    def restore(self, state: Any, tensors: Any, step: int) -> None:
        super().restore(state, tensors, step)
        self.late = 1

    def batches(self, step: int) -> Any:
        return super().batches(max(0, step - self.late))


def test_one_that_forgets_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "pretrain", Forgetful)
    text, _ = phase_kinds.spec_of("pretrain")
    spec = tiny.write(tmp_path, text)
    said = CliRunner().invoke(app, ["run", str(spec), "--certify", "--out", str(tmp_path / "run")])
    assert said.exit_code == 2 and "does not go on bit for bit" in said.output
    found = Certificate.read(tmp_path / "run")
    assert found is not None and {"weights.safetensors", "metrics.jsonl"} <= set(found.phases[0].differing)
    report = explain_run(RunFolder.open(tmp_path / "run"))
    shown = printed(report, 120)
    assert "resume certificate" in shown and "does not go on bit for bit" in shown
    assert report.phases[0].state == "waiting", "nothing was trained of the phase itself"


def test_it_is_shown_and_knows_its_settings(tmp_path: Path) -> None:
    from test_going_back import SHORT

    from llmspec.training.run import run

    spec = tiny.write(tmp_path, SHORT)
    found = certify(compile_spec(load_spec(spec).spec), tmp_path / "run", chance=random.Random(1))
    assert [p.name for p in found.phases] == ["first", "second"] and all(p.holds for p in found.phases)
    run(compile_spec(load_spec(spec, ["phases.second.optimizer.lr=1e-5"]).spec), tmp_path / "run")
    report = explain_run(RunFolder.open(tmp_path / "run"))
    assert report.stale == ("second",) and "with other settings than now" in printed(report, 120)
