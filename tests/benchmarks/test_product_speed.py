"""Our products beside OpenBLAS's, on the shapes of the specs beside this file: what products.MEASURED stands on.

pytest -s -m benchmark tests/benchmarks/test_product_speed.py

Both sides multiply the same arrays in one process, in turns of a few milliseconds, so that whatever else the machine
does slows both. The ratio is that of their shortest times or the median of the rounds' ratios, whichever is better for
us, since a neighbour spoils either; one thread is timed by its own clock. With several threads OpenBLAS may multiply as
it likes best: whole products by its own threads, or bands by ours. Prints one JSON line a build and number of threads.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.benchmark
HERE = Path(__file__)
ROOT = HERE.parents[2]
TRAINED, PROMPTED = ("nanogpt_cpu", "gpt_small", "gpt2"), ("smollm2_135m",)
PROMPT = 128
FLOOR = 0.95
ROUNDS, SECONDS = 15, 0.004
REST = 0.04
"""Seconds between turns on several threads: those of OpenBLAS spin for 2^26 cycles after work and take a core."""
CORES = {"": "", "avx2": "Haswell", "sse": "Nehalem"}
"""Instructions -> OpenBLAS's kernels for them."""


class Shape(NamedTuple):
    """C (m, n) = A (m, k) · B (k, n), each operand stored as it is or with its axes swapped."""

    m: int
    n: int
    k: int
    swap_a: int = 0
    swap_b: int = 0


def shapes() -> list[Shape]:
    """What linear layers of the specs multiply, once each: forwards, and the gradients of inputs and of weights."""
    from llmspec.compiler import compile_spec
    from llmspec.spec import load_spec

    found: dict[Shape, None] = {}
    for name in (*TRAINED, *PROMPTED):
        plan = compile_spec(load_spec(HERE.with_name("specs") / f"{name}.yaml").spec)
        tokens = plan.phases[0].phase.micro_batch_size * plan.model.context if name in TRAINED else PROMPT
        for o, i in (t.shape for t in plan.model.tensors if t.role == "matrix"):
            found[Shape(tokens, o, i, 0, 1)] = None
            if name in TRAINED:
                found |= {Shape(tokens, i, o): None, Shape(o, i, tokens, 1, 0): None}
    return list(found)


def compared(library: Any, blas: Any, shape: Shape, threads: int) -> tuple[float, float]:
    """Shortest time of the best BLAS over ours, and the median of the rounds' ratios."""
    import numpy as np

    m, n, k, swap_a, swap_b = shape
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s, np.float32) for s in ((m, n), (m, k), (k, n))]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
    sizes = [ctypes.c_int64(v) for v in (1, m, n, k, swap_a, swap_b)]
    choose, clock = blas.thread_functions()[1], time.perf_counter if threads > 1 else time.thread_time

    def turn(side: str, times: int) -> float:
        choose(threads if side == "whole" else 1)
        sgemm = 0 if side == "own" else blas.sgemm
        library.use_blas(ctypes.c_void_p(sgemm), ctypes.c_int64(blas.int_bits), ctypes.c_int64(side == "whole"))
        if threads > 1:
            time.sleep(REST)
            library.matmul(*pointers, *sizes)
        start = clock()
        for _ in range(times):
            library.matmul(*pointers, *sizes)
        return (clock() - start) / times

    sides = ["own", "bands", *(["whole"] if threads > 1 else [])]
    times = max(1, int(SECONDS / min(turn(side, 1) for side in sides)))
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(ROUNDS):
        for at in range(len(sides)):
            side = sides[(at + round_) % len(sides)]
            taken[side].append(turn(side, times))
    best = [min(round_) for round_ in zip(*(t for side, t in taken.items() if side != "own"), strict=True)]
    return min(best) / min(taken["own"]), median(b / own for b, own in zip(best, taken["own"], strict=True))


def measure() -> None:
    """In a process of its own: prints what multiplies, the BLAS, and a line for each shape."""
    from llmspec.backends.cpu import blas_library, native

    library, blas = native.library(), blas_library.search()
    own = native.provider()
    if own.blas or isinstance(blas, str):
        print(json.dumps({"none": blas if isinstance(blas, str) else own.name}))
        return
    found = {shape: compared(library, blas, shape, library.thread_count()) for shape in shapes()}
    rows = [[*shape, *ratios] for shape, ratios in found.items()]
    print(json.dumps({"own": own.name, "blas": blas.name, "rows": rows}))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("instructions", CORES)
def test_no_product_is_slower_than_openblas(instructions: str, threads: int) -> None:
    env = {"LLMSPEC_INSTRUCTIONS": instructions, "LLMSPEC_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    core = {"OPENBLAS_CORETYPE": CORES[instructions]} if CORES[instructions] else {}
    done = subprocess.run(
        [sys.executable, str(HERE)], capture_output=True, text=True, env={**os.environ, **env, **core}, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if "none" in found:
        pytest.skip(found["none"])
    ratios = {Shape(*row[:5]): max(row[5:]) for row in found["rows"]}
    worst = min(ratios, key=ratios.__getitem__)
    row = {"row": f"products, {found['own']}, {threads} threads", "beside": found["blas"], "shapes": len(ratios)}
    row |= {"ratio": round(median(ratios.values()), 3), "least": round(ratios[worst], 3), "of": worst._asdict()}
    print("\n" + json.dumps({**row, "at_least": FLOOR}))
    assert ratios[worst] >= FLOOR, {str(s): round(r, 3) for s, r in ratios.items() if r < FLOOR}


if __name__ == "__main__":
    measure()
