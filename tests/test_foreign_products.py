"""Products for processors that are not this machine's: compiled for them, and run where an emulator is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmspec.backends.cpu import early
from llmspec.backends.cpu.toolchain import Toolchain, prepare
from llmspec.core.devices import machine

CHECK = Path(__file__).with_name("products_check.c")
FILES = ("pool", "ahead", "gemm", "linear", "sequences", "rows", "halves", "frozen", "loss", "quantised_pack")
"""C files that a product needs."""
TILES = {"aarch64": "NEON", "x86_64": "SSE", "riscv64": "portable C"}
"""Processor -> what its tiles are made of."""
OTHERS = [target for target in TILES if target != "aarch64"]
MACHINES = {"aarch64": "arm64"}
"""Processors that tinygrad, and with it `machine()`, has another name for."""


@pytest.fixture(scope="module")
def zig() -> Toolchain:
    found = prepare()
    if found.kind != "zig":
        pytest.skip(f"{found.kind} has no C library for other processors, as zig has")
    return found


def emulated(target: str) -> list[str] | None:
    """What a program for that processor is called with; None where it cannot be run here."""
    if sys.platform == "linux" and machine() == MACHINES.get(target, target):
        return []
    found = next((e for name in ("", "-static") if (e := shutil.which(f"qemu-{target}{name}"))), None)
    return [found] if found else None


def compile_for(zig: Toolchain, target: str, *arguments: str) -> None:
    plain = [f for f in early.FLAGS if f not in early.WIDE]
    command = [zig.command[0], "cc", "-target", f"{target}-linux-musl", "-O3", "-g0", "-fno-sanitize=all", *plain]
    cache = {f"ZIG_{where}_CACHE_DIR": str(zig.cache / "zig") for where in ("GLOBAL", "LOCAL")}
    env = {**os.environ, **cache}
    made = subprocess.run([*command, *arguments], capture_output=True, text=True, env=env, timeout=300)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("target", ["aarch64", *(pytest.param(t, marks=pytest.mark.nightly) for t in OTHERS)])
def test_products_of_other_processors(zig: Toolchain, target: str, tmp_path: Path) -> None:
    program, call = tmp_path / "check", emulated(target)
    if call is None:
        for name in ("gemm", "sequences", "halves"):
            compile_for(zig, target, "-S", str(early.SOURCES / f"{name}.c"), "-o", str(program))
        pytest.skip(f"compiled for {target}, and not run: no qemu-{target} here")
    sources = [str(early.SOURCES / f"{name}.c") for name in FILES]
    compile_for(zig, target, "-static", f"-I{early.SOURCES}", *sources, str(CHECK), "-o", str(program))
    said = []
    for threads in ("1", "2", "3", "5"):
        done = subprocess.run([*call, str(program), threads], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0].startswith(f"{TILES[target]}, 143 products") and len(set(said)) == 1, said
