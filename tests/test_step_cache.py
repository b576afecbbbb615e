"""The cache of captured steps: the same bits in every process, and nothing is run that is not the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

STEP = """
import sys
import numpy as np
from llmspec.model.device import open_device
open_device("CPU")
from tinygrad import Tensor, UOp
from llmspec.backends.cpu import step_cache
from llmspec.backends.cpu.captured_step import CapturedStep
from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.parts.ops import Linear

def step(state, inputs, at):
    ops = backend("CPU").ops(inputs)
    y = ops.linear(inputs["x"], Linear(state["w"]))
    loss = (y * y).sum()
    written = Tensor(state["c"].uop.after(state["c"][at : at + 1].uop.store(y[:1].uop)))
    Tensor.realize(loss, state["w"].assign(state["w"] * 0.5 + loss * 1e-6), written)
    return loss, y.contiguous().realize()

rng = np.random.default_rng(0)
state = tensors_from_numpy(w=rng.standard_normal((40, 30)).astype(np.float32), c=np.zeros((8, 40), np.float32))
jit, at = CapturedStep(step, key="test" + "".join(sys.argv[1:])), UOp.variable("at", 0, 7)
for i in range(5):
    inputs = tensors_from_numpy(x=rng.standard_normal((20, 30)).astype(np.float32))
    loss, y = jit(state, {**inputs, **backend("CPU").inputs}, at.bind(i))
    print(loss.item().hex(), y.numpy().tobytes().hex()[:64])
print(state["w"].numpy().sum().item().hex(), state["c"].numpy().tobytes().hex()[:999], file=sys.stdout)
print("captured" if jit._jit else "found", file=sys.stderr)
"""


def start(cache: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "LLMSPEC_CACHE": str(cache), **more}
    return subprocess.Popen(
        [sys.executable, "-c", STEP, *arguments], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """(what it computed, whether it captured the step or found it)."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder where one step is kept, and what it computes."""
    folder = tmp_path_factory.mktemp("cache")
    out, how = ended(start(folder))
    assert how == "captured"
    return folder, out


def entry(cache: Path) -> Path:
    (found,) = [p for p in (cache / "programs").iterdir() if p.suffix == ".program"]
    return found


def test_a_later_process_finds_the_step_and_computes_the_same_bits(cache: tuple[Path, str]) -> None:
    assert ended(start(cache[0])) == (cache[1], "found")


def test_another_key_or_flag_is_another_step(cache: tuple[Path, str], tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(cache[0], tmp_path / "cache")
    assert ended(start(copy, "other")) == (cache[1], "captured")
    for flag in ("NOOPT=1", "EXPAND_SSA=1"):  # one that tinygrad keeps, and one that it reads where it needs it
        assert ended(start(copy, LLMSPEC_TINYGRAD=flag))[1] == "captured"


def test_a_step_is_captured_anew_where_any_code_of_the_package_has_changed() -> None:
    from llmspec.backends.cpu.step_cache import sources

    assert set(map(Path, sources())) == set((tiny.ROOT / "llmspec").rglob("*.py"))


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "unsealed", "open to all"])
def test_a_foreign_or_damaged_entry_is_made_anew(cache: tuple[Path, str], tmp_path: Path, harm: str) -> None:
    import shutil

    copy = shutil.copytree(cache[0], tmp_path / "cache")
    path = entry(copy)
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
    elif harm == "cut":
        content = content[: len(content) // 2]
    elif harm == "empty":
        content = bytearray()
    elif harm == "unsealed":
        (copy / "programs" / "secret").write_bytes(bytes(32))
    path.write_bytes(content)
    path.chmod(0o666 if harm == "open to all" else 0o600)
    assert ended(start(copy)) == (cache[1], "captured")
    assert ended(start(copy)) == (cache[1], "found")


def test_two_processes_may_make_one_entry(tmp_path: Path) -> None:
    both = [start(tmp_path), start(tmp_path)]
    (one, _), (two, _) = map(ended, both)
    assert one == two == ended(start(tmp_path))[0]


def test_killed_while_compiling_leaves_a_usable_cache(tmp_path: Path) -> None:
    for seconds in (0.8, 1.6, 2.4):
        process = start(tmp_path)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    out, _ = ended(start(tmp_path))
    assert ended(start(tmp_path)) == (out, "found")


def test_the_cache_is_private(cache: tuple[Path, str]) -> None:
    folder = cache[0] / "programs"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(p.stat().st_mode & 0o077 == 0 for p in folder.iterdir())


OPENED = """
from llmspec.model.device import open_device
open_device("CPU")
from tinygrad import Device, Tensor
helpers = Device["CPU"].prgs.values()
assert len(helpers) == 4 and not any("made" in vars(h) for h in helpers)
assert Device["CPU"].runtime_t.__name__ == "CPUProgram"
assert (Tensor([1, 2]) + 1).tolist() == [2, 3]
assert all(h.addr for h in helpers) and len({h.name for h in helpers}) == 4
"""


def test_tinygrads_own_helpers_are_made_when_it_needs_them() -> None:
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage" * 99, bytes(999)])
def test_what_is_sealed_and_still_no_step_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    from llmspec.backends.cpu import step_cache

    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path))
    step_cache.keep("good", step_cache.Program([[0, 1, 2]], [], [], [], [8], [(b"code", "name")], 1, True, []))
    assert step_cache.load("good") is not None
    (path,) = (tmp_path / "programs").glob("*.program")
    path.write_bytes(step_cache._seal(content) + content)
    assert step_cache.load("good") is None
