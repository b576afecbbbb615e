"""Products through the BLAS equal numpy's in float64, their gradients too, the same bits on every run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.kernels.toolchain import prepare

prepare()

from tinygrad import Tensor, TinyJit, dtypes  # noqa: E402  (the compiler comes first)
from tinygrad.helpers import GlobalCounters  # noqa: E402

from llmspec.kernels.blas import Blas, linear, matmul  # noqa: E402

FOUND = Blas.find()
pytestmark = pytest.mark.skipif(FOUND is None, reason=f"no BLAS: {Blas.why_not()}")
ROOT = Path(__file__).resolve().parents[2]
EPS, MARGIN = 2.0**-24, 4.0

sizes = st.sampled_from([1, 2, 3, 7, 33, 64])
batches = st.sampled_from([(), (1,), (3,), (2, 3)])
flags = st.booleans()
relaxed = settings(deadline=None, max_examples=20)


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    from tinygrad.helpers import Context

    with Context(DEV="CPU"):
        yield


@pytest.fixture(scope="module")
def handle() -> Tensor:
    assert FOUND is not None
    return FOUND.handle()


def bits() -> int:
    assert FOUND is not None
    return FOUND.int_bits


def array(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def tensor(values: np.ndarray) -> Tensor:
    return Tensor(values, device="CPU").realize()


def flip(values: np.ndarray, flag: bool) -> np.ndarray:
    return values.astype(np.float64).swapaxes(-1, -2) if flag else values.astype(np.float64)


def close(made: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """|made - left @ right| <= c * eps * K * |left| |right|, element by element, as for any order of summation."""
    exact, room = left @ right, np.abs(left) @ np.abs(right)
    assert made.shape == exact.shape
    assert (np.abs(made - exact) <= MARGIN * EPS * (left.shape[-1] + 1) * room).all()


def operands(batch: tuple[int, ...], M: int, N: int, K: int, ta: bool, tb: bool) -> list[np.ndarray]:
    shapes = ((K, M) if ta else (M, K), (N, K) if tb else (K, N), (M, N))
    return [array(seed, *batch, *shape) for seed, shape in enumerate(shapes)]


@relaxed
@given(batches, sizes, sizes, sizes, flags, flags)
def test_values_and_gradients(handle: Tensor, batch, M, N, K, ta, tb) -> None:
    a, b, g = operands(batch, M, N, K, ta, tb)
    A, B = tensor(a), tensor(b)
    out = matmul(handle, A, B, transpose_a=ta, transpose_b=tb, int_bits=bits())
    da, db = (out * tensor(g)).sum().gradient(A, B)
    left, right, g64 = flip(a, ta), flip(b, tb), g.astype(np.float64)
    close(out.numpy(), left, right)
    close(flip(da.numpy(), ta), g64, right.swapaxes(-1, -2))
    close(flip(db.numpy(), tb), left.swapaxes(-1, -2), g64)


@relaxed
@given(batches, sizes, sizes, sizes)
def test_linear_sums_its_weight_gradient_over_all_rows(handle: Tensor, batch, M, N, K) -> None:
    x, w, g = array(0, *batch, M, K), array(1, N, K), array(2, *batch, M, N)
    X, W = tensor(x), tensor(w)
    out = linear(handle, X, W, int_bits=bits())
    dx, dw = (out * tensor(g)).sum().gradient(X, W)
    rows, g_rows = x.reshape(-1, K).astype(np.float64), g.reshape(-1, N).astype(np.float64)
    close(out.numpy().reshape(-1, N), rows, w.T.astype(np.float64))
    close(dx.numpy().reshape(-1, K), g_rows, w.astype(np.float64))
    close(dw.numpy(), g_rows.T, rows)


@relaxed
@given(st.sampled_from([((2, 1), (2, 3)), ((3,), (2, 1)), ((1,), (4,)), ((2, 3), ())]), sizes, flags, flags)
def test_leading_axes_broadcast(handle: Tensor, pair, K, ta, tb) -> None:
    a = operands(pair[0], 3, 2, K, ta, tb)[0]
    b = operands(pair[1], 3, 2, K, ta, tb)[1]
    A, B = tensor(a), tensor(b)
    out = matmul(handle, A, B, transpose_a=ta, transpose_b=tb, int_bits=bits())
    made = [t.numpy() for t in (*out.square().sum().gradient(A, B), out)]  # realized first, it has no gradient
    close(made[2], flip(a, ta), flip(b, tb))
    plain = (A.transpose(-1, -2) if ta else A) @ (B.transpose(-1, -2) if tb else B)
    for ours, theirs in zip(made[:2], plain.square().sum().gradient(A, B), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-3 * np.abs(theirs.numpy()).max())


@settings(deadline=None, max_examples=6)
@given(sizes, sizes, sizes)
def test_inside_a_captured_function_with_changing_inputs(handle: Tensor, M, N, K) -> None:
    @TinyJit
    def step(handle: Tensor, x: Tensor, w: Tensor) -> list[Tensor]:
        out = linear(handle, x * 2, w, int_bits=bits())
        return [t.contiguous() for t in (out, *out.square().sum().gradient(x, w))]

    for seed in range(5):
        x, w = array(seed, M, K), array(seed + 9, N, K)
        out, dx, dw = (t.numpy() for t in step(handle, tensor(x), tensor(w)))
        close(out, 2 * x.astype(np.float64), w.T.astype(np.float64))
        np.testing.assert_allclose(dx, 4 * out @ w, rtol=1e-3, atol=1e-3 * np.abs(dx).max())
        np.testing.assert_allclose(dw, 4 * out.T @ x, rtol=1e-3, atol=1e-3 * np.abs(dw).max())


@pytest.mark.parametrize("shape", [(64, 64, 64), (1, 64, 33), (300, 257, 129), (1, 1024, 192)])
def test_the_same_bits_before_during_and_after_capture(handle: Tensor, shape: tuple[int, int, int]) -> None:
    M, N, K = shape
    x, w = tensor(array(0, M, K)), tensor(array(1, N, K))

    def step(handle: Tensor, x: Tensor, w: Tensor) -> list[Tensor]:
        out = linear(handle, x, w, int_bits=bits())
        return [t.contiguous() for t in (out, *out.square().sum().gradient(x, w))]

    captured = TinyJit(step)
    runs = [[t.numpy().tobytes() for t in captured(handle, x, w)] for _ in range(6)]
    runs.append([t.numpy().tobytes() for t in step(handle, x, w)])
    assert all(run == runs[0] for run in runs)


def test_one_kernel_a_product_and_nothing_copied(handle: Tensor) -> None:
    x, w1, w2 = (tensor(array(i, *shape)) for i, shape in enumerate([(4, 8, 16), (32, 16), (16, 32)]))
    GlobalCounters.reset()
    linear(handle, linear(handle, x, w1, int_bits=bits()), w2, int_bits=bits()).realize()
    assert GlobalCounters.kernel_count == 2
    for ta, tb in [(False, False), (True, False), (False, True), (True, True)]:
        a, b, _ = (tensor(t) for t in operands((3,), 8, 16, 32, ta, tb))
        GlobalCounters.reset()
        matmul(handle, a, b, transpose_a=ta, transpose_b=tb, int_bits=bits()).realize()
        assert GlobalCounters.kernel_count == 1


def test_second_derivatives(handle: Tensor) -> None:
    a, b = tensor(array(0, 3, 7)), tensor(array(1, 5, 7))
    (first,) = matmul(handle, a, b, transpose_b=True, int_bits=bits()).square().sum().gradient(a)
    (second,) = first.square().sum().gradient(b)
    (plain,) = (a @ b.T).square().sum().gradient(a)
    (expected,) = plain.square().sum().gradient(b)
    np.testing.assert_allclose(second.numpy(), expected.numpy(), rtol=1e-4, atol=1e-3)


CAPTURE = """
import pickle, sys
from llmspec.kernels.toolchain import prepare
prepare()
from tinygrad import Tensor, TinyJit
from llmspec.kernels.blas import Blas, linear
blas = Blas.find()
x = Tensor([[float(4 * i + j) for j in range(4)] for i in range(3)]).realize()
w = Tensor([[1.0] * 4] * 2).realize()
"""


def test_a_pickled_capture_runs_in_another_process(tmp_path: Path) -> None:
    file = tmp_path / "captured"
    make = "f = TinyJit(lambda h, x, w: linear(h, x, w, int_bits=blas.int_bits).realize())\n"
    make += f"for _ in range(3): f(blas.handle(), x, w)\npickle.dump(f, open({str(file)!r}, 'wb'))"
    load = f"f = pickle.load(open({str(file)!r}, 'rb')); print(f(blas.handle(), x, w).tolist())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEV": "CPU"}
    for code in (make, load):
        done = subprocess.run(
            [sys.executable, "-c", CAPTURE + code], env=environment, text=True, capture_output=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[6.0, 6.0], [22.0, 22.0], [38.0, 38.0]]"


def test_what_does_not_fit_is_refused(handle: Tensor) -> None:
    a = tensor(array(0, 3, 4))
    with pytest.raises(ValueError, match="fit"):
        matmul(handle, a, a)
    with pytest.raises(ValueError, match="broadcast"):
        matmul(handle, tensor(array(0, 2, 3, 4)), tensor(array(0, 3, 4, 5)))
    with pytest.raises(TypeError, match="float32"):
        matmul(handle, a.cast(dtypes.half), a)


def test_the_blas_is_a_plain_value() -> None:
    assert FOUND is not None and pickle.loads(pickle.dumps(FOUND)) == FOUND
    assert FOUND.int_bits in (32, 64) and FOUND.threads >= 1 and Blas.why_not() == ""


def test_a_batch_of_small_products_leaves_the_number_of_threads(handle: Tensor) -> None:
    import threadpoolctl

    counts = lambda: [info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
    before, a = counts(), tensor(array(0, 5, 33, 64))
    out = matmul(handle, a, a, transpose_b=True, int_bits=bits()).numpy()
    close(out, a.numpy().astype(np.float64), a.numpy().astype(np.float64).swapaxes(-1, -2))
    assert counts() == before
