"""The CPU's operations equal their definitions in float64, within bounds that grow with the length of the sums.

native.c is called directly on drawn sizes, since that compiles nothing; the graphs around it on a few odd shapes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import EPS, Inputs, memory
from tinygrad import Tensor

from llmspec.kernels import native
from llmspec.model.lowering import CPUOps, Lowering, lowering
from llmspec.model.ops import Ops

seeds, sizes, spreads = st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.01, 1.0, 10.0, 1e4])
drawn = settings(deadline=None, max_examples=60)
GUARD, TINY = 32, 1e-36
NEGLIGIBLE = 104.0
"""Below -104, e^x is nothing in float32: how far a rounded difference of scores can still matter."""
Array = np.ndarray


def numbers(seed: int, *shape: int, spread: float = 1.0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * spread).astype(np.float32)


# -- native.c, with guard zones around everything it gets -----------------------------------------------------------


def guarded(values: Array) -> tuple[Array, Array]:
    """A copy of the values in the middle of a buffer, and the whole buffer as bytes."""
    size, edge = values.nbytes, GUARD * values.itemsize
    whole = np.full(size + 2 * edge, 0xA5, np.uint8)
    inner = whole[edge : edge + size].view(values.dtype).reshape(values.shape)
    inner[...] = values
    return inner, whole


def call(name: str, outputs: list[tuple[int, ...]], given: list[Array], lengths: list[int]) -> list[Array]:
    """Runs a function of native.c twice; only the outputs changed, each in full, and both times to the same bits."""
    runs = []
    for filler in (0x00, 0xFF):
        outs = [guarded(np.full(shape, filler, np.float32)) for shape in outputs]
        ins = [guarded(values) for values in given]
        pointers = [ctypes.c_void_p(inner.ctypes.data) for inner, _ in (*outs, *ins)]
        function = getattr(native.library(), name)
        function.restype = None
        function(*pointers, *(ctypes.c_int64(n) for n in lengths))
        for inner, whole in (*outs, *ins):
            edge = GUARD * inner.itemsize
            assert (whole[:edge] == 0xA5).all() and (whole[-edge:] == 0xA5).all(), "wrote beside its buffer"
        for (inner, _), values in zip(ins, given, strict=True):
            assert inner.tobytes() == values.tobytes(), "wrote into what it only reads"
        runs.append([inner.copy() for inner, _ in outs])
    assert [r.tobytes() for r in runs[0]] == [r.tobytes() for r in runs[1]]
    return runs[0]


def within(made: Array, exact: Array, room: Array | float, what: str = "") -> None:
    assert made.shape == exact.shape and np.isfinite(made).all()
    excess = np.abs(made - exact) - room
    assert (excess <= 0).all(), f"{what} {excess.max():g} beyond its bound"


@drawn
@given(seeds, sizes, sizes, st.integers(1, 12))
def test_rows_of_a_table(seed: int, n: int, d: int, v: int) -> None:
    table, g = numbers(seed, v, d), numbers(seed, n, d, 1)[..., 0]
    ids = np.random.default_rng(seed).integers(0, v, n).astype(np.int32)  # often repeated: n may exceed v
    (rows,) = call("gather_rows", [(n, d)], [table, ids], [n, d])
    assert (rows == table[ids]).all()
    (sums,) = call("scatter_rows", [(v, d)], [g, ids], [n, d, v])
    one_hot = (ids[None] == np.arange(v)[:, None]).astype(np.float64)
    within(sums, one_hot @ g, n * EPS * (one_hot @ np.abs(g)))


@drawn
@given(seeds, *[st.integers(1, 4)] * 3, sizes, spreads, st.booleans(), st.floats(0, 1))
def test_softmax_and_its_gradient(
    seed: int, b: int, h: int, t: int, s: int, spread: float, shared: bool, hidden: float
) -> None:
    x, g = numbers(seed, b, h, t, s, spread=spread), numbers(seed, b, h, t, s, 1)[..., 0]
    bm = 1 if shared else b
    mask = np.random.default_rng(seed).random((bm, 1, t, s)) >= hidden
    (p,) = call("softmax_masked", [x.shape], [x, mask.astype(np.uint8)], [b, h, t, s, bm])
    exact = reference.softmax(x.astype(np.float64), mask)
    seen = np.broadcast_to(mask, x.shape)
    assert (p[~seen] == 0).all() and (p >= 0).all()
    # The sum's order, e^x itself, and the rounding of x - max, which e^x passes on.
    below = x.astype(np.float64) - np.where(seen, x, -np.inf).max(-1, keepdims=True, initial=-1e30)
    within(p, exact, EPS * (s + 8 + np.minimum(np.abs(below), NEGLIGIBLE)) * exact + TINY, "softmax")
    (back,) = call("softmax_backward", [x.shape], [g, p], [b * h * t, s])
    p, g = p.astype(np.float64), g.astype(np.float64)
    total, room = (p * g).sum(-1, keepdims=True), (p * np.abs(g)).sum(-1, keepdims=True)
    within(back, p * (g - total), EPS * (s + 8) * p * (np.abs(g) + room) + TINY, "gradient")


@drawn
@given(seeds, st.integers(1, 200), spreads)
def test_gated_silu_and_its_gradients(seed: int, n: int, spread: float) -> None:
    gate, up, g = (numbers(seed + i, n, spread=spread if i == 0 else 1.0) for i in range(3))
    (y,) = call("silu_gated", [(n,)], [gate, up], [n])
    to_gate, to_up = call("silu_gated_backward", [(n,), (n,)], [g, gate, up], [n])
    x, u, g64 = (a.astype(np.float64) for a in (gate, up, g))
    s = reference.sigmoid(x)
    tiny = TINY * np.maximum(1, np.abs(x)) * (np.abs(u) + np.abs(g64) + np.abs(g64 * u))
    within(y, x * s * u, 8 * EPS * np.abs(x * s * u) + tiny)
    within(to_up, g64 * x * s, 8 * EPS * np.abs(g64 * x * s) + tiny)
    # 1 - s is rounded, and times x that may be most of the factor.
    within(to_gate, g64 * u * s * (1 + x * (1 - s)), 8 * EPS * np.abs(g64 * u) * s * (1 + np.abs(x)) + tiny)


@drawn
@given(seeds, st.integers(1, 9), sizes, spreads, st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([0.0, -1e4, 1e4]))
def test_cross_entropy_and_its_gradient(
    seed: int, n: int, v: int, spread: float, smoothing: float, shift: float
) -> None:
    x, g = numbers(seed, n, v, spread=spread) + np.float32(shift), numbers(seed, n)
    targets = np.random.default_rng(seed).integers(0, v, n).astype(np.int32)
    lengths = [n, v, round(smoothing * 1e6)]
    losses, totals = call("cross_entropy", [(n,), (n,)], [x, targets], lengths)
    x64 = x.astype(np.float64)
    low = x64 - x64.max(-1, keepdims=True)
    reach = np.abs(low[np.arange(n), targets]) + smoothing * v * np.abs(low).mean(-1)
    within(losses, reference.cross_entropy(x64, targets, smoothing), EPS * (2 * v + 16 + 4 * reach), "loss")
    (back,) = call("cross_entropy_backward", [(n, v)], [g, x, totals, targets], lengths)
    p = reference.softmax(x64)
    wanted = np.full((n, v), smoothing / v)
    wanted[np.arange(n), targets] += 1 - smoothing
    g64 = np.abs(g.astype(np.float64))[:, None]
    # The logits' own rounding is passed on: e^x changes by a share of eps·|x|.
    room = EPS * g64 * ((v + NEGLIGIBLE + 16 + 2 * np.abs(x64).max(-1, keepdims=True)) * p + 4 * (wanted + p))
    within(back, g.astype(np.float64)[:, None] * (p - wanted), room + TINY, "gradient")


@drawn
@given(seeds, st.integers(1, 9), st.integers(1, 200), st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
       st.sampled_from([1e-12, 1e-5, 0.5]))
def test_rms_norm_and_its_gradients(seed: int, n: int, d: int, spread: float, eps: float) -> None:
    x, g, w = numbers(seed, n, d, spread=spread), numbers(seed + 1, n, d), numbers(seed, d)
    y, r = call("rms_norm", [(n, d), (n,)], [x, w], [n, d, round(eps * 1e12)])
    x64, g64, w64 = (a.astype(np.float64) for a in (x, g, w))
    scale = 1 / np.sqrt((x64**2).mean(-1, keepdims=True) + eps)
    within(y, x64 * scale * w64, EPS * (d + 8) * np.abs(x64 * scale * w64))
    to_x, to_w = call("rms_norm_backward", [(n, d), (d,)], [g, x, w, r], [n, d])
    pull = (g64 * w64 * x64).sum(-1, keepdims=True) * scale**3 / d
    room = np.abs(g64 * w64) * scale + np.abs(x64) * np.abs(g64 * w64 * x64).sum(-1, keepdims=True) * scale**3 / d
    within(to_x, g64 * w64 * scale - x64 * pull, EPS * (3 * d + 16) * room)
    within(to_w, (g64 * x64 * scale).sum(0), EPS * (n + d + 8) * np.abs(g64 * x64 * scale).sum(0))


# -- the same operations as parts of a graph ------------------------------------------------------------------------

ODD = [(1, 1, 1), (1, 7, 3), (5, 1, 2), (3, 2, 33)]
"""One row, one column, a context of one, lengths that no vector divides."""


def softmax_case(rows: int, columns: int, inner: int, seed: int) -> Any:
    mask = np.random.default_rng(seed).random((rows, 1, columns, inner)) < 0.7
    shapes = [(rows, 2, columns, inner)]
    return shapes, {"mask": mask}, lambda ops, t, x: ops.softmax(x, t["mask"]), lambda x: reference.softmax(x, mask)


def linear_case(rows: int, columns: int, inner: int, seed: int) -> Any:
    return ([(2, rows, inner), (columns, inner), (columns,)], {}, lambda ops, t, x, w, b: ops.linear(x, w, b),
            lambda x, w, b: x @ w.T + b)


def embedding_case(rows: int, columns: int, inner: int, seed: int) -> Any:
    ids = np.random.default_rng(seed).integers(0, columns, (2, rows)).astype(np.int32)
    return [(columns, inner)], {"ids": ids}, lambda ops, t, w: ops.embedding(w, t["ids"]), lambda w: w[ids]


def entropy_case(smoothing: float) -> Any:
    def case(rows: int, columns: int, inner: int, seed: int) -> Any:
        ids = np.random.default_rng(seed).integers(0, inner, rows).astype(np.int32)
        return ([(rows, inner)], {"ids": ids}, lambda ops, t, x: ops.cross_entropy(x, t["ids"], smoothing),
                lambda x: reference.cross_entropy(x, ids, smoothing))

    return case


def norm_case(rows: int, columns: int, inner: int, seed: int) -> Any:
    return ([(rows, columns, inner), (inner,)], {}, lambda ops, t, x, w: ops.rms_norm(x, w, 0.01),
            lambda x, w: reference.rmsnorm({"n.weight": w}, "n", x, 0.01))


def gated_case(activation: str) -> Any:
    def case(rows: int, columns: int, inner: int, seed: int) -> Any:
        return ([(rows, columns, inner)] * 2, {}, lambda ops, t, a, b: ops.gated(activation, a, b),
                lambda a, b: reference.ACTIVATIONS[activation](a) * b)

    return case


def matmul_case(ta: bool, tb: bool) -> Any:
    def case(rows: int, columns: int, inner: int, seed: int) -> Any:
        flip = lambda m, flag: np.swapaxes(m, -1, -2) if flag else m
        shapes = [(2, inner, rows) if ta else (2, rows, inner), (2, columns, inner) if tb else (2, inner, columns)]
        return (shapes, {}, lambda ops, t, a, b: ops.matmul(a, b, transpose_a=ta, transpose_b=tb),
                lambda a, b: flip(a, ta) @ flip(b, tb))

    return case


CASES = {
    "linear": linear_case,
    "embedding": embedding_case,
    "softmax": softmax_case,
    "rms_norm": norm_case,
    "cross_entropy": entropy_case(0.0),
    "cross_entropy smoothed": entropy_case(0.25),
    **{f"gated {a}": gated_case(a) for a in ("silu", "gelu", "relu")},
    **{f"matmul {'NT'[a]}{'NT'[b]}": matmul_case(a, b) for a in (False, True) for b in (False, True)},
}


def slopes(f: Any, values: list[Array], g: Array) -> list[Array]:
    """Finite differences in float64 of the sum of f(*values)·g, number by number."""
    out = []
    for i, value in enumerate(values):
        slope = np.zeros(value.shape)
        for at in np.ndindex(value.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[at] += step
                ends.append((f(*values[:i], moved, *values[i + 1 :]) * g).sum())
            slope[at] = (ends[0] - ends[1]) / 2e-5
        out.append(slope)
    return out


def test_every_operation_of_the_cpu_has_a_case() -> None:
    own = {name for name in vars(CPUOps) if not name.startswith("_")}
    assert own == {name.split()[0] for name in CASES}


@pytest.mark.parametrize("shape", ODD, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_in_a_graph(name: str, shape: tuple[int, int, int]) -> None:
    shapes, extra, f, exact = CASES[name](*shape, 5)
    values = [numbers(i, *s) for i, s in enumerate(shapes)]
    g = numbers(9, *exact(*values).shape)
    doubles = [v.astype(np.float64) for v in values]
    expected = [exact(*doubles), *slopes(exact, doubles, g.astype(np.float64))]
    errors: dict[str, list[float]] = {}
    for plain in (True, False):
        low, inputs = lowering("CPU", plain), Inputs()
        inputs.put({**{str(i): v for i, v in enumerate(values)}, **extra, "g": g})

        def graph(t: Any, handles: Any, low: Any = low) -> list[Any]:
            variables = [t[str(i)] for i in range(len(values))]
            y = f(low.ops(handles), t, *variables)
            back = (y * t["g"]).sum().gradient(*variables)
            out = [x.contiguous() for x in (y, *back)]
            Tensor.realize(*out)
            return out

        jit = low.jit(graph)
        runs = [[memory(t).copy() for t in jit(inputs, low.inputs)] for _ in range(3)]
        assert all(a.tobytes() == b.tobytes() for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
        errors[low.name] = [float(np.abs(m - e).max()) for m, e in zip(runs[0], expected, strict=True)]
        for made, wanted in zip(runs[0], expected, strict=True):
            # 1e-9 is what a finite difference is off by itself.
            assert np.abs(made - wanted).max() <= EPS * (sum(shape) + 16) * max(1, np.abs(wanted).max()) * 4 + 1e-9
    plain, *cpu = errors.values()
    for ours in cpu:  # none where there is no BLAS
        assert all(o <= 8 * p + 32 * EPS for o, p in zip(ours, plain, strict=True)), errors


# -- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout(rate: float) -> None:
    shape, inputs = (64, 129), Inputs()  # an odd count: the last pair of random words is cut

    def graph(t: dict[str, Tensor]) -> list[Tensor]:
        ops = Ops(t["key"], rate)
        first, second = ops.dropout(t["x"]), ops.dropout(t["x"])
        (back,) = (first * 3).sum().gradient(t["x"])
        out = [y.contiguous() for y in (first, second, back)]
        Tensor.realize(*out)
        return out

    jit, x = Lowering("plain").jit(graph), numbers(0, *shape) + 10

    def run(*key: int) -> list[Array]:
        return [memory(out).copy() for out in jit(inputs.put({"x": x, "key": np.array(key, np.uint32)}))]

    first, second, back = run(1, 2)
    kept = first != 0
    for out in (first, second):
        room = 4 * np.sqrt(rate * (1 - rate) / x.size)  # four standard errors
        assert abs((out != 0).mean() - (1 - rate)) < room
        assert abs((out != 0).mean(0) - (1 - rate)).max() < 5 * np.sqrt(rate * (1 - rate) / shape[0])
    np.testing.assert_allclose(first[kept], x[kept] / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(back, np.where(kept, 3 / (1 - rate), 0), rtol=1e-6)
    agree = (kept == (second != 0)).mean()
    assert abs(agree - (rate**2 + (1 - rate) ** 2)) < 0.03, "two sites share their bits"
    assert all(a.tobytes() == b.tobytes() for a, b in zip(run(1, 2), (first, second, back), strict=True))
    for other in ((1, 3), (2, 2), (2, 1)):
        assert abs(((run(*other)[0] != 0) == kept).mean() - (rate**2 + (1 - rate) ** 2)) < 0.03


def test_no_dropout_without_a_key_or_a_rate() -> None:
    x = object()
    assert Ops(None, 0.5).dropout(x) is x and Ops(object(), 0.0).dropout(x) is x  # type: ignore[arg-type]
