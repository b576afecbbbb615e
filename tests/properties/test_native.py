"""The C functions beside products equal their definitions in float64, within bounds that grow with their sums.

They are called directly on drawn sizes, since that compiles nothing; test_lowering.py has the graphs around them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attention_cases
import expert_cases
import frozen_cases
import kept_cases
import kernel_cases
import numpy as np
import pytest
import quantised_cases
import update_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import Case, call, check

from llmspec.model.device import open_device

open_device("CPU")

from llmspec.backends.cpu import early, native  # noqa: E402  (the compiler comes first)

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {
    **kernel_cases.ROW_MAKERS,
    **attention_cases.ATTENTION,
    **expert_cases.EXPERTS,
    **quantised_cases.QUANTISED,
    **frozen_cases.FROZEN,
    **kept_cases.KEPT,
    **update_cases.UPDATES,
}


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_values_and_gradients(name: str, data: st.DataObject) -> None:
    pick = lambda values: data.draw(st.sampled_from(values))
    for case in MAKERS[name](pick):
        check(native.library(), case)


def test_every_function_has_a_case() -> None:
    pick = lambda values: values[-1]
    makers = {**kernel_cases.PRODUCTS, **MAKERS}
    assert {case.function for maker in makers.values() for case in maker(pick)} == set(native.FUNCTIONS)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.booleans())
def test_heads_side_by_side_or_apart_are_the_same_bits(data: st.DataObject, plain: bool) -> None:
    """Forward and backward."""
    drawn: list[object] = []

    def pick(values: Any) -> Any:  # the second time, what was drawn the first time
        drawn.append(data.draw(st.sampled_from(values)))
        return drawn[-1]

    packed = attention_cases.attentions(pick, True, plain=plain)
    again = iter(drawn)
    apart = attention_cases.attentions(lambda values: next(again), False, longer=0, plain=plain)
    (out, sums), (whole, *bias) = (call(native.library(), case) for case in packed)
    (out2, sums2), (to_q, to_k, to_v, *bias2) = (call(native.library(), case) for case in apart)
    assert out.tobytes() == out2.tobytes() and sums.tobytes() == sums2.tobytes()
    assert whole.tobytes() == np.concatenate((to_q, to_k, to_v), axis=2).tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(bias, bias2, strict=True))


@pytest.mark.parametrize("n", [1, 40_000])
def test_denormals_count_as_zero_within_a_call_alone(n: int) -> None:
    """On every thread, and a caller's own arithmetic stays as it was."""
    tiny, out = np.full(n, 1e-40, np.float32), np.ones(n, np.float32)
    pointer = lambda array: ctypes.c_void_p(array.ctypes.data)
    native.library().add(pointer(out), pointer(tiny), pointer(tiny), ctypes.c_int64(n))
    assert (out == 0.0).all()
    assert (tiny + tiny > 0.0).all()


def test_gelu_by_a_sigmoid_is_gelu() -> None:
    import reference

    x = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(x * kernel_cases.gate(x, 1)[0], reference.gelu(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("together", [1, 3])
def test_a_table_of_calls(together: int) -> None:
    """Calls with few and with many arguments, one after another or side by side, do what they do by themselves."""

    def drawn(name: str) -> list[Case]:
        cases = [kernel_cases.ROW_MAKERS[name](lambda values, i=i: values[i % len(values)])[0] for i in range(40)]
        return [c for c in cases if np.prod(c.outputs[0].exact.shape[:2]) <= 32][:3]  # no threads of their own

    cases = [*drawn("table"), *drawn("rotate")]
    assert len(cases) == 6
    table, held = np.zeros((len(cases), 64), np.uint64), []
    for row, case in enumerate(cases):
        arrays = [np.full(case.outputs[0].exact.shape, np.nan, np.float32), *case.given]
        held.append(arrays)
        address = ctypes.cast(getattr(native.library(), case.function), ctypes.c_void_p).value
        words = [a.ctypes.data for a in arrays] + [n % 2**64 for n in case.numbers]
        first = row % 3 == 0 and together == 3
        table[row, : 2 + len(words)] = [address, len(words) | (3 if first else 0) << 32, *words]
    native.library().replay(ctypes.c_void_p(table.ctypes.data), ctypes.c_int64(len(table)))
    for case, (out, *_) in zip(cases, held, strict=True):
        assert out.tobytes() == call(native.library(), case)[0].tobytes()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
@pytest.mark.parametrize("file", sorted(early.SOURCES.glob("*.[ch]")), ids=lambda path: path.name)
def test_each_file_says_what_it_needs(file: Path) -> None:
    """It compiles by itself, without a warning: nothing depends on the order in which files are put together."""
    command = ["gcc", "-x", "c", "-std=gnu11", "-O1", "-march=native", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    lenient = ["-Wno-unknown-pragmas", "-Wno-pragma-once-outside-header", "-Wno-unused-function"]
    found = subprocess.run([*command, *lenient, str(file)], capture_output=True, text=True)
    if "__builtin_shufflevector" in found.stderr:
        pytest.skip("a gcc before 12")
    headers = "pragma once in main file"  # a header by itself
    wrong = [line for line in found.stderr.splitlines() if "error:" in line and headers not in line]
    assert not wrong, found.stderr


# -- under a sanitizer ----------------------------------------------------------------------------------------------

FLAGS = [
    "-x",
    "c",
    "-std=gnu11",
    "-O1",
    "-g",
    "-march=native",
    "-shared",
    "-fPIC",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-Wno-unknown-pragmas",
]
SANITIZED = """
import ctypes, sys
from kernels import drive, exactly_sized, mislead
from kernel_cases import PRODUCTS, ROW_MAKERS
from attention_cases import ATTENTION
from expert_cases import EXPERTS
from frozen_cases import FROZEN
from quantised_cases import QUANTISED
library = ctypes.CDLL(sys.argv[1])
library.start_threads(ctypes.c_int64(3))
makers = {**PRODUCTS, **ROW_MAKERS, **ATTENTION, **EXPERTS, **QUANTISED, **FROZEN}
if sys.argv[2] == "0":  # one row more than there is
    case = makers["table"](lambda values: values[-1])[0]
    arrays = [exactly_sized(a).__enter__() for a in (case.outputs[0].exact.astype("f4"), *case.given)]
    rows, width, table = map(ctypes.c_int64, (case.numbers[0] + 1, case.numbers[1], case.numbers[2]))
    library.gather_rows(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), rows, width, table)
print(len(drive(library, makers, int(sys.argv[2]), exactly_sized)), "driven")
print(len(mislead(library, makers, exactly_sized)), "misled")
"""


def _runtime(name: str) -> str | None:
    gcc = shutil.which("gcc")
    if gcc is None:
        return None
    found = subprocess.run([gcc, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return found if os.path.isabs(found) else None


@pytest.mark.skipif(_runtime("libasan.so") is None, reason="no gcc with an address sanitizer")
@pytest.mark.parametrize("rounds", [5, pytest.param(60, marks=pytest.mark.nightly)])
def test_no_access_beyond_a_buffer_and_nothing_undefined(rounds: int, tmp_path: Path) -> None:
    library = tmp_path / "native.so"
    made = subprocess.run(
        ["gcc", *FLAGS, "-", "-o", str(library), "-lm", "-lpthread"],
        input=early.source(),
        text=True,
        capture_output=True,
    )
    if made.returncode and "__builtin_shufflevector" in made.stderr:
        pytest.skip("a gcc before 12")
    assert made.returncode == 0, made.stderr
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "LD_PRELOAD": str(_runtime("libasan.so")),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    run = lambda rounds: subprocess.run(
        [sys.executable, "-c", SANITIZED, str(library), str(rounds)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    done, planted = run(rounds), run(0)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "driven" in done.stdout and "misled" in done.stdout and "runtime error" not in done.stderr
    assert planted.returncode and "heap-buffer-overflow" in planted.stderr, "the sanitizer sleeps"
