"""Products, linear layers and the loss on top equal float64, their gradients too, the same bits on every run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kernel_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import EPS, Array, check, numbers

from llmspec.core.devices import processor
from llmspec.model.device import open_device

open_device("CPU")

from tinygrad import Tensor, TinyJit  # noqa: E402  (the compiler comes first)
from tinygrad.helpers import GlobalCounters  # noqa: E402

from llmspec.backends.cpu import early, native, products  # noqa: E402
from llmspec.backends.cpu.autograd import linears, matmul  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sizes = st.sampled_from([1, 2, 3, 7, 33, 64])
flags = st.booleans()


@pytest.mark.parametrize("name", kernel_cases.PRODUCTS)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_size_and_stride(name: str, data: st.DataObject) -> None:
    pick = lambda values: data.draw(st.sampled_from(values))
    for case in kernel_cases.PRODUCTS[name](pick):
        check(native.library(), case)


# -- as parts of a graph --------------------------------------------------------------------------------------------


def tensor(values: Array) -> Tensor:
    return Tensor(values, device="CPU").realize()


def flip(values: Array, flag: bool) -> Array:
    return values.astype(np.float64).swapaxes(-1, -2) if flag else values.astype(np.float64)


def close(made: Array, left: Array, right: Array) -> None:
    exact, room = left @ right, np.abs(left) @ np.abs(right)
    assert made.shape == exact.shape
    assert (np.abs(made - exact) <= 4 * EPS * (left.shape[-1] + 1) * room).all()


def operands(batch: tuple[int, ...], m: int, n: int, k: int, ta: bool, tb: bool) -> list[Array]:
    shapes = ((k, m) if ta else (m, k), (n, k) if tb else (k, n), (m, n))
    return [numbers(seed, *batch, *shape) for seed, shape in enumerate(shapes)]


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([(), (1,), (3,), (2, 3)]), sizes, sizes, sizes, flags, flags)
def test_values_and_gradients(batch: tuple[int, ...], m: int, n: int, k: int, ta: bool, tb: bool) -> None:
    a, b, g = operands(batch, m, n, k, ta, tb)
    A, B = tensor(a), tensor(b)
    out = matmul(native.handle(), A, B, transpose_a=ta, transpose_b=tb)
    da, db = (out * tensor(g)).sum().gradient(A, B)
    left, right, g64 = flip(a, ta), flip(b, tb), g.astype(np.float64)
    close(out.numpy(), left, right)
    close(flip(da.numpy(), ta), g64, right.swapaxes(-1, -2))
    close(flip(db.numpy(), tb), left.swapaxes(-1, -2), g64)


@settings(deadline=None, max_examples=8)
@given(st.sampled_from([(2,), (2, 3), (1,)]), sizes, sizes, sizes, flags)
def test_one_right_side_serves_all_rows(batch: tuple[int, ...], m: int, n: int, k: int, tb: bool) -> None:
    a, b, g = numbers(0, *batch, m, k), numbers(1, *((n, k) if tb else (k, n))), numbers(2, *batch, m, n)
    A, B = tensor(a), tensor(b)
    out = matmul(native.handle(), A, B, transpose_b=tb)
    da, db = (out * tensor(g)).sum().gradient(A, B)
    rows, g_rows, right = a.reshape(-1, k).astype(np.float64), g.reshape(-1, n).astype(np.float64), flip(b, tb)
    close(out.numpy().reshape(-1, n), rows, right)
    close(da.numpy().reshape(-1, k), g_rows, right.T)
    close(flip(db.numpy(), tb), rows.T, g_rows)


@settings(deadline=None, max_examples=5)
@given(sizes, sizes, sizes)
def test_inside_a_captured_function_with_changing_inputs(m: int, n: int, k: int) -> None:
    @TinyJit
    def step(handle: Tensor, x: Tensor, w: Tensor) -> list[Tensor]:
        out = linears(handle, x * 2, [Linear(w)])
        return [t.contiguous() for t in (out, *out.square().sum().gradient(x, w))]

    for seed in range(5):
        x, w = numbers(seed, m, k), numbers(seed + 9, n, k)
        out, dx, dw = (t.numpy() for t in step(native.handle(), tensor(x), tensor(w)))
        close(out, 2 * x.astype(np.float64), w.T.astype(np.float64))
        np.testing.assert_allclose(dx, 4 * out @ w, rtol=1e-3, atol=1e-3 * np.abs(dx).max())
        np.testing.assert_allclose(dw, 4 * out.T @ x, rtol=1e-3, atol=1e-3 * np.abs(dw).max())


@pytest.mark.parametrize("shape", [(64, 64, 64), (1, 64, 33), (300, 257, 129), (1, 1024, 192)])
def test_the_same_bits_before_during_and_after_capture(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    x, w = tensor(numbers(0, m, k)), tensor(numbers(1, n, k))

    def step(handle: Tensor, x: Tensor, w: Tensor) -> list[Tensor]:
        out = linears(handle, x, [Linear(w)])
        return [t.contiguous() for t in (out, *out.square().sum().gradient(x, w))]

    captured = TinyJit(step)
    runs = [[t.numpy().tobytes() for t in captured(native.handle(), x, w)] for _ in range(6)]
    runs.append([t.numpy().tobytes() for t in step(native.handle(), x, w)])
    assert all(run == runs[0] for run in runs)


def test_one_kernel_a_product_and_nothing_copied() -> None:
    x, w1, w2, w3 = (tensor(numbers(i, *shape)) for i, shape in enumerate([(4, 8, 16), (32, 16), (16, 32), (4, 16)]))
    GlobalCounters.reset()
    linears(native.handle(), linears(native.handle(), x, [Linear(w1)]), [Linear(w2)]).realize()
    assert GlobalCounters.kernel_count == 2
    GlobalCounters.reset()
    linears(native.handle(), x, [Linear(w1), Linear(w3)]).realize()
    assert GlobalCounters.kernel_count == 1
    for ta, tb in [(False, False), (True, False), (False, True), (True, True)]:
        a, b, _ = (tensor(t) for t in operands((3,), 8, 16, 32, ta, tb))
        GlobalCounters.reset()
        matmul(native.handle(), a, b, transpose_a=ta, transpose_b=tb).realize()
        assert GlobalCounters.kernel_count == 1


def test_second_derivatives() -> None:
    a, b = tensor(numbers(0, 3, 7)), tensor(numbers(1, 5, 7))
    (first,) = matmul(native.handle(), a, b, transpose_b=True).square().sum().gradient(a)
    (second,) = first.square().sum().gradient(b)
    (plain,) = (a @ b.T).square().sum().gradient(a)
    (expected,) = plain.square().sum().gradient(b)
    np.testing.assert_allclose(second.numpy(), expected.numpy(), rtol=1e-4, atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    a = tensor(numbers(0, 3, 4))
    with pytest.raises(ValueError, match="fit"):
        matmul(native.handle(), a, a)
    with pytest.raises(ValueError, match="leading axes differ"):
        matmul(native.handle(), tensor(numbers(0, 2, 3, 4)), tensor(numbers(0, 3, 4, 5)))


# -- in other processes ---------------------------------------------------------------------------------------------

CAPTURE = """
import pickle, sys
from llmspec.backends.cpu.toolchain import prepare
prepare()
from tinygrad import Tensor, TinyJit
from llmspec.backends.cpu.native import handle
from llmspec.backends.cpu.autograd import linears
from llmspec.parts.ops import Linear
x = Tensor([[float(4 * i + j) for j in range(4)] for i in range(3)]).realize()
w = Tensor([[1.0] * 4] * 2).realize()
"""


def child(code: str, *arguments: str, **environment: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        text=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths, "DEV": "CPU", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pickled_capture_runs_in_another_process(tmp_path: Path) -> None:
    file = str(tmp_path / "captured")
    make = "f = TinyJit(lambda h, x, w: linears(h, x, [Linear(w)]).realize())\n"
    make += f"for _ in range(3): f(handle(), x, w)\npickle.dump(f, open({file!r}, 'wb'))"
    child(CAPTURE + make)
    out = child(CAPTURE + f"print(pickle.load(open({file!r}, 'rb'))(handle(), x, w).tolist())")
    assert out.strip() == "[[6.0, 6.0], [22.0, 22.0], [38.0, 38.0]]"


DRIVE = """
import sys
from llmspec.backends.cpu import native
from kernels import drive
from kernel_cases import PRODUCTS, ROW_MAKERS
from attention_cases import ATTENTION
from expert_cases import EXPERTS
from quantised_cases import QUANTISED
library = native.library()
print(library.thread_count())
print(native.provider().name)
made = {**PRODUCTS, **ROW_MAKERS, **ATTENTION, **EXPERTS, **QUANTISED}
print("\\n".join(drive(library, made, int(sys.argv[1]))))
"""


OTHERS = [name for name in early.SETS if name]


@pytest.mark.parametrize(
    ("instructions", "rounds"),
    [("", 12), *((name, 2) for name in OTHERS), *(pytest.param(n, 12, marks=pytest.mark.nightly) for n in OTHERS)],
)
def test_every_build_is_right_and_has_the_same_bits_with_any_number_of_threads(instructions: str, rounds: int) -> None:
    """All C functions, made for each set of instructions that this machine has; test_thread_bits.py has whole runs."""
    if instructions and instructions not in processor():
        pytest.skip(f"no {instructions} here")
    run = lambda n: child(DRIVE, str(rounds), LLMSPEC_THREADS=n, LLMSPEC_INSTRUCTIONS=instructions).splitlines()
    made = {threads: run(threads) for threads in ("1", "2", "5")}
    assert all(lines[0] == threads for threads, lines in made.items())
    assert made["1"][1:] == made["2"][1:] == made["5"][1:] and len(made["1"]) > 8 * rounds
    assert not instructions or instructions.upper() in made["1"][1]


def test_a_blas_multiplies_where_tiles_have_not_been_compared_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    own = products.provider()
    assert own.blas is None or "not been compared" in own.name
    monkeypatch.setattr(products, "MEASURED", ())
    found = products.provider.__wrapped__()
    if found.blas is None:
        pytest.skip(found.name)
    assert found.name.startswith(found.blas.name) and "own tiles have not been compared with a BLAS on" in found.name
    monkeypatch.setattr(products.blas_library, "search", lambda: "numpy is not there")
    assert products.provider.__wrapped__().name == f"{own.name}; no BLAS: numpy is not there"


BLAS = """
import ctypes
from llmspec.backends.cpu import blas_library
from llmspec.backends.cpu import native
from kernels import drive
from kernel_cases import PRODUCTS
library, blas = native.library(), blas_library.search()
if isinstance(blas, str):
    print("none:", blas)
    raise SystemExit
def use(sgemm, whole):
    library.use_blas(ctypes.c_void_p(sgemm), ctypes.c_int64(blas.int_bits), ctypes.c_int64(whole))
blas.thread_functions()[1](1)
runs = []
for sgemm, whole in ((0, 0), (blas.sgemm, 0), (blas.sgemm, 1), (0, 0)):
    use(sgemm, whole)
    runs.append(drive(library, PRODUCTS, 150))
print(runs[0] == runs[3], runs[1] != runs[0])
"""


def test_products_by_a_blas_in_place_of_ours() -> None:
    said = child(BLAS).strip()
    if said.startswith("none:"):
        pytest.skip(said)
    assert said == "True True"
