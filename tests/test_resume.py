"""A run that was stopped or killed anywhere goes on and ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import small
import tiny

import llmspec
from llmspec.runs import checkpoint
from llmspec.training import engine


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(spec, run directory) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    spec = tiny.write(folder)
    done = tiny.call("run", spec, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return spec, folder / "run"


def facts(run: Path) -> dict[str, object]:
    """All that must be equal: weights, optimizer state, rows, samples, ledger with its hash over the token order."""
    out: dict[str, object] = {}
    for phase in ("pretrain", "chat"):
        newest, notices = checkpoint.newest(run / phase)
        assert newest is not None and not notices
        out[f"{phase} step"] = newest.step
        for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR):
            out[f"{phase} {name}"] = (newest.folder / name).read_bytes()
        for name in ("metrics.jsonl", "samples.jsonl"):
            out[f"{phase} {name}"] = (run / phase / name).read_text()
    return out


def same(a: dict[str, object], b: dict[str, object]) -> None:
    assert a.keys() == b.keys()
    differing = [name for name in a if a[name] != b[name]]
    assert not differing


def test_twice_the_same(straight: tuple[Path, Path], tmp_path: Path) -> None:
    spec, run = straight
    assert tiny.call("run", spec, "--out", tmp_path / "again").returncode == 0
    same(facts(run), facts(tmp_path / "again"))


def rows(out: Path) -> int:
    """How many measurements a run has written so far."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("*/metrics.jsonl"))


def kill_after(process: subprocess.Popen[bytes], out: Path, more: int, delay: float) -> bool:
    """Kills the run `delay` seconds after it wrote `more` measurements; False where it ended before."""
    start = rows(out)
    while process.poll() is None:
        if rows(out) >= start + more:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.002)
    assert process.returncode == 0
    return False


def test_killed_at_random_points(straight: tuple[Path, Path], tmp_path: Path) -> None:
    spec, run = straight
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance, out = random.Random(seed), tmp_path / "killed"
    # What the run has written says where it is, on a machine of any speed: 0 rows is during its start.
    plan = [chance.choice([0, 1, 2, 4, 7]) for _ in range(5)]
    kills = 0
    for more in [1, *plan]:
        env = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
        process = subprocess.Popen(
            tiny.command("run", spec, "--out", out), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        kills += kill_after(process, out, more, chance.uniform(0, 0.5 if more == 0 else 0.05))
    assert kills >= 1, "nothing was killed: the test proved nothing"
    assert tiny.call("run", spec, "--out", out).returncode == 0
    same(facts(run), facts(out))


def test_interrupt_saves_and_says_how_to_go_on(straight: tuple[Path, Path], tmp_path: Path) -> None:
    spec, run = straight
    out = tmp_path / "stopped"
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    with subprocess.Popen(
        tiny.command("run", spec, "--out", out), env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("pretrain 1/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait() == 130
    assert f"llmspec run {spec}" in rest.replace("\n", "")
    newest, _ = checkpoint.newest(out / "pretrain")
    assert newest is not None and newest.step < 24
    assert tiny.call("run", spec, "--out", out).returncode == 0
    same(facts(run), facts(out))


def test_a_damaged_checkpoint_is_named_and_passed_over(straight: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    spec, run = straight
    out = tmp_path / "damaged"
    shutil.copytree(run, out)
    weights = out / "chat" / "step_12" / checkpoint.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    sampled = tiny.call("sample", out, "--prompt", "one")
    assert sampled.returncode == 0 and "step_12isdamaged" in "".join(sampled.stderr.split())  # wherever lines end
    again = tiny.call("run", spec, "--out", out)
    assert again.returncode == 0 and "is damaged" in again.stdout
    same(facts(run), facts(out))


def test_unchanged_phases_are_not_trained_again(straight: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    spec, run = straight
    out = tmp_path / "changed"
    shutil.copytree(run, out)
    decoding = tiny.call("run", spec, "--out", out, "--set", "decoding.temperature=0.3")
    assert decoding.stdout.count("trained before") == 2
    chat = tiny.call("run", spec, "--out", out, "--set", "phases.chat.optimizer.lr=1e-4")
    assert "pretrain: trained before" in chat.stdout and "chat: starts" in chat.stdout
    assert list(out.glob("chat.*")), "the weights of the old chat phase are kept"
    assert (
        json.loads((out / "plan.json").read_text())["phases"][0]["key"]
        == json.loads((run / "plan.json").read_text())["phases"][0]["key"]
    )


def test_two_runs_in_one_folder_are_refused(straight: tuple[Path, Path], tmp_path: Path) -> None:
    from llmspec.core.problems import RunError
    from llmspec.runs.run import RunFolder

    spec, _ = straight
    with RunFolder(tmp_path).alone():
        other = tiny.call("run", spec, "--out", tmp_path)
    assert other.returncode == 2 and "another process" in other.stderr
    with RunFolder(tmp_path).alone(), pytest.raises(RunError), RunFolder(tmp_path).alone():
        pass


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import numpy as np

    from llmspec.core.problems import RunError

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoint.save(tmp_path, 1, {"w": np.ones(3, np.float32)}, {}, {})
    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(RunError, match="disk is full"):
        checkpoint.save(tmp_path, 2, {"w": np.ones(3, np.float32)}, {}, {})
    newest, notices = checkpoint.newest(tmp_path)
    assert newest is not None and newest.step == 1 and not notices
    assert not list(tmp_path.glob(".step_*"))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_what_is_saved_by_the_clock_changes_nothing_and_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    plan = small.plan(*(f"phases.{phase}.keep={{last: {keep}}}" for phase in ("pretrain", "chat")))
    usual, kept = checkpoint.save, []

    def save(folder: Path, *given: Any) -> Path:
        written = usual(folder, *given)
        kept.append(sorted(int(path.name[5:]) for path in folder.glob("step_*")))
        return written

    llmspec.run(plan, tmp_path / "usual")
    monkeypatch.setattr(engine, "AT_RISK", -1.0)
    monkeypatch.setattr(engine, "SAVING", 0.0)
    monkeypatch.setattr(checkpoint, "save", save)
    llmspec.run(plan, tmp_path / "run")
    four = [[1], [2], [2, 3], [2, 4]] if keep > 1 else [[1], [2], [3], [4]]
    assert kept == 2 * four
    same(facts(tmp_path / "usual"), facts(tmp_path / "run"))


def test_a_run_that_breaks_goes_on_from_what_the_clock_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, usual = small.plan("phases.pretrain.checkpoint_every=100%"), engine.Engine.advance
    llmspec.run(plan, tmp_path / "usual")

    def breaks(trains: engine.Engine) -> None:
        if trains.step == 3:
            raise ZeroDivisionError
        usual(trains)

    monkeypatch.setattr(engine, "AT_RISK", -1.0)
    monkeypatch.setattr(engine, "SAVING", 0.0)
    monkeypatch.setattr(engine.Engine, "advance", breaks)
    with pytest.raises(ZeroDivisionError):
        llmspec.run(plan, tmp_path / "run")
    found, _ = checkpoint.newest(tmp_path / "run" / "pretrain")
    assert found is not None and found.step == 3
    begun = []
    monkeypatch.setattr(engine.Engine, "advance", lambda trains: (begun.append(trains.step), usual(trains)))
    llmspec.run(plan, tmp_path / "run")
    assert begun == [3, 0, 1, 2, 3]
    same(facts(tmp_path / "usual"), facts(tmp_path / "run"))
