"""Runs that are ended from outside: signals, full disks, folders taken away, output that nobody reads. What was saved
stays, a sentence says what happened, and going on ends with the same bits."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import tiny

import llmspec
from llmspec.core.problems import RunError
from llmspec.runs import checkpoint
from llmspec.training.callbacks import Recorder, Step
from llmspec.training.stop import NAMES, Interrupted, on_signals

SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.trained(tmp_path_factory)


class At(Recorder):
    """Does something after the n-th step of a run, counted over all phases."""

    def __init__(self, number: int, do: Callable[[], object]) -> None:
        super().__init__()
        self.number, self.do = number, do

    def stepped(self, step: Step) -> None:
        super().stepped(step)
        if len(self.steps) == self.number:
            self.do()


def ends_alike(run: Path, straight: Path) -> None:
    """Going on, a run ends with the bits of one that nothing disturbed."""
    llmspec.run(small.plan(), run)
    for phase in ("pretrain", "chat"):
        for name in ("metrics.jsonl", "samples.jsonl", "step_4/weights.safetensors", "step_4/optimizer.safetensors"):
            assert (run / phase / name).read_bytes() == (straight / phase / name).read_bytes(), f"{phase}/{name}"


# -- signals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_signals_save_and_say_where(straight: Path, tmp_path: Path, number: signal.Signals) -> None:
    run, before = tmp_path / "run", signal.getsignal(number)
    with pytest.raises(Interrupted, match=rf"stopped in pretrain after step 3 \({number.name}\)") as caught:
        llmspec.run(small.plan(), run, watcher=At(3, lambda: signal.raise_signal(number)))
    assert caught.value.status == 128 + number and signal.getsignal(number) is before
    saved, notices = checkpoint.newest(run / "pretrain")
    assert saved is not None and saved.step == 3 and not notices
    ends_alike(run, straight)


def test_a_second_signal_ends_at_once_and_leaves_the_last_checkpoint(straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped in pretrain after step 2"):
        llmspec.run(small.plan(), run, watcher=At(3, twice))
    saved, _ = checkpoint.newest(run / "pretrain")
    assert saved is not None and saved.step == 2
    ends_alike(run, straight)


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_signal_while_a_checkpoint_is_written(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    from llmspec.runs import tensors

    write, written = tensors.write, list[Path]()

    def interrupted(path: Path, arrays: Any) -> str:
        written.append(path)
        if len(written) == 4:  # the optimizer's state of the second checkpoint
            for _ in range(1 + again):
                signal.raise_signal(signal.SIGUSR1)
        return write(path, arrays)

    run = tmp_path / "run"
    monkeypatch.setattr(tensors, "write", interrupted)
    with pytest.raises(Interrupted):
        llmspec.run(small.plan("phases.pretrain.budget=6 steps"), run)
    saved, notices = checkpoint.newest(run / "pretrain")
    assert saved is not None and saved.step == (2 if again else 4) and not notices
    assert not list((run / "pretrain").glob(".step_*"))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_before_the_first_step_they_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from llmspec.training import run

    monkeypatch.setattr(run, "prepare", lambda *_, **__: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=r"stopped before the first step") as caught:
        llmspec.run(small.plan(), tmp_path / "run")
    assert caught.value.status == 128 + number and not (tmp_path / "run").exists()


def test_nor_do_they_end_the_command_without_a_word_while_it_reads_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmspec.cli import run

    monkeypatch.setattr(run, "compiled", lambda *_: signal.raise_signal(signal.SIGUSR2))
    status, said = small.call("run", str(tiny.write(tmp_path)))
    assert status == 128 + signal.SIGUSR2 and "stopped before the first step (SIGUSR2)" in said


def test_what_was_ignored_stays_ignored() -> None:
    """As `nohup` starts a program, or a shell one in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_caught() -> None:
    found: list[Any] = []

    def inside() -> None:
        with on_signals() as stop:
            found.append((stop.asked, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [(False, before)]


# -- output --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BrokenPipeError(32, "Broken pipe"), 141),
        (OSError(28, "No space"), 2),
        (ValueError("I/O operation on closed file."), 2),
    ],
)
def test_output_that_ends_saves(straight: Path, tmp_path: Path, error: Exception, status: int) -> None:
    def fail() -> None:
        raise error

    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"after step 3 \(its output could not be written") as caught:
        llmspec.run(small.plan(), run, watcher=At(3, fail))
    assert caught.value.status == status
    ends_alike(run, straight)


def test_other_mistakes_of_a_watcher_are_its_own(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        llmspec.run(small.plan(), tmp_path / "run", watcher=At(1, fail))


# -- a folder that is taken away -------------------------------------------------------------------------------------
def test_a_folder_that_is_removed_is_written_again_with_what_was_trained(straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"was removed during training; it was written again .* after step 2"):
        llmspec.run(small.plan(), run, watcher=At(2, lambda: shutil.rmtree(run)))
    assert (run / "plan.json").exists()
    llmspec.run(small.plan(), run)
    for phase in ("pretrain", "chat"):
        name = f"{phase}/step_4/weights.safetensors"
        assert (run / name).read_bytes() == (straight / name).read_bytes()


# -- full disks ----------------------------------------------------------------------------------------------------
WRITES = ["open", "write", "fsync", "rename"]


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS"])
@pytest.mark.parametrize("what", WRITES)
def test_whatever_write_fails_a_sentence_says_so(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: str
) -> None:
    import errno

    from llmspec.core import disk

    def fail(*_: object, **__: object) -> Any:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), str(tmp_path))

    def full() -> None:
        from llmspec.runs import files, tensors

        if what == "open":
            for module in (files, tensors):
                monkeypatch.setattr(module, "open_plain", fail)
        else:
            monkeypatch.setattr(
                {"write": json_of(files), "fsync": os, "rename": Path}[what],
                {"write": "dumps", "fsync": "fsync", "rename": "rename"}[what],
                fail,
            )

    run = tmp_path / "run"
    with pytest.raises(RunError) as caught:
        llmspec.run(small.plan(), run, watcher=At(3, full))
    said = {
        "ENOSPC": "the disk is full",
        "EDQUOT": "the disk quota is used up",
        "EFBIG": "larger than a file may be",
        "EIO": "input/output error",
        "EROFS": "read-only",
    }[code]
    assert said in str(caught.value) and "same command again" in caught.value.problems[0].hint
    monkeypatch.undo()
    assert disk.explained(OSError(28, "x"), tmp_path).message.startswith("the disk is full")
    ends_alike(run, straight)


def json_of(module: Any) -> Any:
    return module.json


def limited(size: int) -> Callable[[], None]:
    """No file of this process and its children may have more bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [0, 300, 6_000, 9_000, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_a_limit_on_files_anywhere_ends_in_a_sentence(straight: Path, tmp_path: Path, size: int) -> None:
    """Of tokenizers, tokens, kernels, checkpoints and rows: whatever is written first."""
    spec = tmp_path / "small.yaml"
    spec.write_text(small.SPEC, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "LLMSPEC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        tiny.command("run", spec, "--out", tmp_path / "run"),
        capture_output=True,
        text=True,
        env=env,
        preexec_fn=limited(size),
        timeout=300,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert any(words in done.stderr for words in ("larger", "full", "File too large")), done.stderr


def mounted(folder: Path, options: str) -> bool:
    folder.mkdir()
    mount = shutil.which("mount")
    return (
        bool(mount)
        and sys.platform == "linux"
        and not subprocess.run(
            [str(mount), "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True
        ).returncode
    )


@pytest.mark.parametrize("options", ["size=8k", "size=100k", "size=6m,nr_inodes=24"])
def test_small_file_systems(straight: Path, tmp_path: Path, options: str) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk, options):
        pytest.skip("no file system may be mounted here")
    try:
        with pytest.raises(RunError, match=r"free|file system"):
            llmspec.run(small.plan(), disk / "run")
        subprocess.run(["mount", "-o", "remount,size=50m,nr_inodes=1000", str(disk)], check=True)
        ends_alike(disk / "run", straight)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_on_the_way(straight: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk, "size=1m"):
        pytest.skip("no file system may be mounted here")

    def fill() -> None:
        free = shutil.disk_usage(disk).free
        (disk / "another").write_bytes(b"x" * (free - 4096))

    try:
        with pytest.raises(RunError, match="the disk is full"):
            llmspec.run(small.plan(), disk / "run", watcher=At(3, fill))
        (disk / "another").unlink()
        ends_alike(disk / "run", straight)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
