"""A machine with no clang and no GPU just works, and says what to do where it cannot."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llmspec.backends.cpu import compilers
from llmspec.backends.cpu.compilers import Memory, candidates, machine
from llmspec.backends.cpu.toolchain import ToolchainError, prepare

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts are for POSIX shells")

ROOT = Path(__file__).resolve().parents[1]
BARE_PATH = "/usr/bin:/bin"
COMPUTE = "from tinygrad import Tensor; print('sum', (Tensor([1.0, 2.0, 3.0], device='CPU') * 2).sum().item())"
PREPARE = "from llmspec.backends.cpu.toolchain import prepare; tc = prepare(); print('kind', tc.kind, tc.identity); "
NO_ZIG = "import sys; sys.modules['ziglang'] = None\n"


def run(code: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a fresh process with its own home and cache, nothing set that a compiler or tinygrad would read."""
    kept = {k: v for k, v in os.environ.items() if k in ("LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")}
    fresh = {"HOME": str(folder / "home"), "LLMSPEC_CACHE": str(folder / "a cache"), "PATH": BARE_PATH, "DEV": "CPU"}
    environment = {**kept, **fresh, "PYTHONPATH": str(ROOT), **environment}
    (folder / "home").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def output(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


@pytest.mark.parametrize("cc", [None, "gcc", "/nonexistent", "a'b", "sh -c true"])
def test_a_tensor_operation_runs_on_a_bare_machine(tmp_path: Path, cc: str | None) -> None:
    environment = {} if cc is None else {"CC": cc}
    out = output(run(PREPARE + COMPUTE + "; print(tc.passed_over)", tmp_path, **environment))
    assert "sum 12.0" in out
    if cc is not None:
        assert "kind CC" not in out and "CC=" in out
    assert list((tmp_path / "a cache" / "kernels").glob("*/tinygrad.db"))
    assert not (tmp_path / "home" / ".cache" / "tinygrad").exists()


def test_tinygrad_imported_too_early_is_put_right(tmp_path: Path) -> None:
    early = "import tinygrad.helpers as h; h.getenv('CC', 'clang'); h.db_connection(); "
    out = output(run(early + PREPARE + COMPUTE + "; print(h.CACHEDB)", tmp_path, CC="gcc"))
    assert "sum 12.0" in out and "/a cache/kernels/" in out


def test_a_database_that_the_user_has_set_is_respected(tmp_path: Path) -> None:
    own = tmp_path / "own.db"
    assert "sum 12.0" in output(run(PREPARE + COMPUTE, tmp_path, CACHEDB=str(own)))
    assert own.exists() and not (tmp_path / "a cache" / "kernels").joinpath("tinygrad.db").exists()


def test_no_candidate_names_the_ways(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    catch = "\ntry: prepare()\nexcept ToolchainError as error: print(error)"
    code = NO_ZIG + "from llmspec.backends.cpu.toolchain import prepare, ToolchainError" + catch
    said = output(run(code, tmp_path, PATH=str(empty), CC="/usr/bin/nothing"))
    for way in ("pip install ziglang", "apt-get install clang", "xcode-select --install", "CC=", "/usr/bin/nothing"):
        assert way in said
    assert "Traceback" not in said


def test_a_child_process_sees_the_users_own_environment(tmp_path: Path) -> None:
    child = "import os, subprocess, sys; print(subprocess.check_output(['printenv', 'CC', 'DEV']), dict(os.environ))"
    before = "import os; before = dict(os.environ)\n"
    out = output(
        run(before + PREPARE + COMPUTE + "\n" + child + "\nassert dict(os.environ) == before", tmp_path, CC="gcc")
    )
    assert "b'gcc\\nCPU\\n'" in out and "sum 12.0" in out and "LLMSPEC_USER_CC" not in out


def test_two_processes_at_once(tmp_path: Path) -> None:
    both = [run(PREPARE + COMPUTE, tmp_path) for _ in range(2)]
    outs = [output(process) for process in both]
    assert outs[0] == outs[1] and "sum 12.0" in outs[0]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 1, "verdicts": 3}', b"[" * 100_000])
def test_a_damaged_memory_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    (tmp_path / compilers.MEMORY_FILE).write_bytes(damage)
    assert Memory(tmp_path).verdicts == {}
    isolate(monkeypatch)
    prepare(tmp_path)
    assert any("version" in verdict for verdict in Memory(tmp_path).verdicts.values())


def test_a_verdict_is_remembered_and_a_changed_compiler_probed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolate(monkeypatch)
    own = tmp_path / "own clang"
    own.write_text(f'#!/bin/sh\nexec {shlex.join(prepare(tmp_path / "first").command)} "$@"\n')
    own.chmod(0o700)
    monkeypatch.setenv("CC", str(own))
    assert prepare(tmp_path / "second").kind == "CC"
    held = json.loads((tmp_path / "second" / compilers.MEMORY_FILE).read_text())["verdicts"]
    own.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setattr("llmspec.backends.cpu.toolchain._prepared", {})
    changed = prepare(tmp_path / "second")
    assert changed.kind != "CC" and "own clang" in changed.passed_over[0]
    assert len(Memory(tmp_path / "second").verdicts) > len(held)


def test_an_object_for_another_machine_is_refused() -> None:
    other = next(code for name, code in compilers.ELF_MACHINES.items() if name != machine())
    for made in (b"", b"not an object", b"\x7fELF" + bytes(14) + other.to_bytes(2, "little") + bytes(64)):
        with pytest.raises(compilers.Rejected):
            compilers._check_object(made)


def test_a_shared_library_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch)
    loop = "double s = 0; for (long i = 0; i < n; i++) s += exp(x[i]); return s;"
    source = "#include <math.h>\ndouble total(const double* x, long n) { " + loop + " }"
    toolchain = prepare(tmp_path / "with a space")
    path = toolchain.shared_library(source, "total")
    stamp = path.stat().st_mtime_ns
    assert toolchain.shared_library(source, "total") == path and path.stat().st_mtime_ns == stamp
    total = ctypes.CDLL(str(path)).total
    total.restype, total.argtypes = ctypes.c_double, [ctypes.c_void_p, ctypes.c_long]
    assert total((ctypes.c_double * 3)(0.0, 0.0, 1.0), 3) == pytest.approx(2 + 2.718281828459045)
    with pytest.raises(ToolchainError, match="broken"):
        toolchain.shared_library("int broken(", "broken")


def test_candidates_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("clang", "zig"):
        (tmp_path / "bin" / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "bin")
    assert all(os.path.isabs(c.command[0]) for c in candidates("bin/clang")) and len(list(candidates(None))) > 1


def test_candidates_come_in_order() -> None:
    kinds = [candidate.kind for candidate in candidates("gcc")]
    assert kinds[0] == "CC" and kinds == sorted(kinds, key=["CC", "clang", "zig"].index)


def isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `prepare` search anew for the length of one test, and leave tinygrad as it is."""
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr("llmspec.backends.cpu.toolchain._prepared", {})
    monkeypatch.setattr("llmspec.backends.cpu.toolchain.adopt", lambda *what: None)
