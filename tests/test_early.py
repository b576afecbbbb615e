"""The C functions' compiler works beside the reading of data: it is waited for, its errors come out, it never stays."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmspec.backends import workers
from llmspec.backends.cpu import early
from llmspec.backends.cpu.toolchain import Toolchain
from llmspec.backends.workers import CompilerError, Errand, ToolchainError
from llmspec.model.device import getting_ready

SLEEPER = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(60)"]


def test_the_functions_are_compiled_once_and_by_the_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []

    def shared_library(self: Toolchain, source: str, name: str, flags: tuple[str, ...]) -> Path:
        made.append(name)
        time.sleep(0.05)
        return tmp_path / "made"

    monkeypatch.setattr(Toolchain, "shared_library", shared_library)
    monkeypatch.setattr(Toolchain, "loaded", lambda self, path: path)
    with early.compiling():
        assert early.load() == tmp_path / "made"  # type: ignore[comparison-overlap]
    assert made == ["native"]
    early.load()
    assert made == ["native", "native"], "outside of it whoever needs them compiles them"


def test_what_fails_beside_is_raised_where_the_functions_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared_library(*given: object) -> Path:
        raise ToolchainError("no room")

    monkeypatch.setattr(Toolchain, "shared_library", shared_library)
    with early.compiling(), pytest.raises(ToolchainError, match="no room"):
        early.load()
    with early.compiling():
        pass  # nobody needed them


def test_a_compiler_ends_with_the_errand_that_called_it() -> None:
    start = time.monotonic()
    errand = Errand(workers.call, SLEEPER, "", 60.0)
    while errand._child is None:
        time.sleep(0.01)
    child: subprocess.Popen[bytes] = errand._child
    errand.give_up()
    assert child.poll() is not None
    assert not errand.is_alive()
    assert time.monotonic() - start < 20
    with pytest.raises(CompilerError, match="ended"):
        errand.result()


def test_an_errand_given_up_before_its_compiler_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()

    def late() -> bytes:
        time.sleep(0.1)
        return workers.call(SLEEPER, "", 60.0)

    errand = Errand(late)
    errand.give_up()
    with pytest.raises(CompilerError):
        errand.result()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("device", ["CUDA", "METAL"])
def test_a_gpu_asks_no_compiler_of_ours(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toolchain, "shared_library", lambda *given: pytest.fail("compiled for a CPU"))
    with getting_ready(device):
        assert not early._begun
