"""The CPU's operations as parts of a graph: their values and gradients, against float64 and against plain tinygrad.

test_native.py and test_products.py call the C functions behind them on drawn sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import networks
import numpy as np
import pytest
import reference
from kernels import Array, numbers
from networks import EPS, Inputs, memory
from tinygrad import Tensor
from tinygrad.helpers import GlobalCounters

from llmspec.backends.backend import backend
from llmspec.backends.cpu.ops import CPUOps
from llmspec.backends.plain.backend import Backend
from llmspec.compiler.masks import Relation
from llmspec.parts.ops import Linear, Near, Scores, Update
from llmspec.parts.updates import AdamStep

ODD = [(3, 4, 5), *(pytest.param(s, marks=pytest.mark.nightly) for s in ((1, 1, 2), (5, 1, 3), (3, 4, 17)))]
"""(rows, columns, inner): one row, one column, a context of one, lengths that no vector divides."""


class Case(NamedTuple):
    """One operation: trained inputs by shape, constants, the call, and the same in numpy."""

    shapes: list[tuple[int, ...]]
    constants: dict[str, Array]
    graph: Callable[..., Tensor]
    exact: Callable[..., Array]


def ids_below(n: int, seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, n]).integers(0, n, shape).astype(np.int32)


def matmul_case(ta: bool, tb: bool) -> Any:
    flip = lambda m, flag: np.swapaxes(m, -1, -2) if flag else m
    return lambda rows, columns, inner: Case(
        [(2, inner, rows) if ta else (2, rows, inner), (2, columns, inner) if tb else (2, inner, columns)],
        {},
        lambda ops, t, a, b: ops.matmul(a, b, transpose_a=ta, transpose_b=tb),
        lambda a, b: flip(a, ta) @ flip(b, tb),
    )


def linears_case(layers: int, biased: bool) -> Any:
    def case(rows: int, columns: int, inner: int) -> Case:
        wide = [columns + j for j in range(layers)]
        shapes = [(2, rows, inner), *((o, inner) for o in wide), *((o,) for o in wide if biased)]
        pairs = lambda more: [Linear(w, more[layers + j] if biased else None) for j, w in enumerate(more[:layers])]
        return Case(
            shapes,
            {},
            lambda ops, t, x, *more: ops.linears(x, pairs(more)),
            lambda x, *more: np.concatenate([x @ w.T + (0 if b is None else b) for w, b, *_ in pairs(more)], -1),
        )

    return case


def embedding_case(rows: int, columns: int, inner: int) -> Case:
    ids = ids_below(columns, 1, 2, rows)
    return Case([(columns, inner)], {"ids": ids}, lambda ops, t, w: ops.embedding(w, t["ids"]), lambda w: w[ids])


def rotate_case(interleaved: bool, more: int) -> Any:
    """One head more than those that are turned, and so many numbers more."""

    def case(rows: int, columns: int, inner: int) -> Case:
        angles = np.repeat(numbers(3, 9, inner), 2, -1) if interleaved else np.tile(numbers(3, 9, inner), 2)
        cos, sin, places = np.cos(angles), np.sin(angles), ids_below(9, 1, 2, columns)
        real, imaginary = (
            (slice(0, 2 * inner, 2), slice(1, 2 * inner, 2)) if interleaved else (slice(inner), slice(inner, 2 * inner))
        )

        def exact(x: Array) -> Array:
            turn = (cos.astype(np.float64) + 1j * sin.astype(np.float64))[places][:, :, None, real]
            turned, out = (x[..., real] + 1j * x[..., imaginary]) * turn, x.copy()
            out[:, :, :rows, real], out[:, :, :rows, imaginary] = turned.real[:, :, :rows], turned.imag[:, :, :rows]
            return out

        return Case(
            [(2, columns, rows + 1, 2 * inner + more)],
            {"cos": cos, "sin": sin, "places": places},
            lambda ops, t, x: ops.rotate(x, rows, t["cos"], t["sin"], t["places"], interleaved=interleaved),
            exact,
        )

    return case


class Form(NamedTuple):
    """A way to make scores; a trained bias is one more trained input."""

    scale: float | None = None
    softcap: float | None = None
    bias: str = ""  # "constant" or "trained"
    batch: int = 1  # of the bias
    near: bool = False
    sinks: bool = False


FORMS = {
    "": Form(),
    "biased": Form(bias="constant"),
    "scaled softcap": Form(0.7, 1.5),
    "trained bias": Form(bias="trained"),
    "softcap trained biases": Form(None, 1.5, "trained", 2),
    "near": Form(near=True),
    "sinks": Form(sinks=True),
    "near, sinks and all": Form(0.7, 1.5, "trained", 1, True, True),
}


def attended(form: Form, ranges: Array, q: Array, k: Array, v: Array, more: dict[str, Array]) -> Array:
    k, v = (np.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) * (form.scale or 1 / np.sqrt(q.shape[-1]))
    scores = np.tanh(scores / form.softcap) * form.softcap if form.softcap else scores
    seen = np.broadcast_to(networks.seen_by(ranges, k.shape[1])[:, None], scores.shape)
    scores = scores + more.get("bias", np.zeros(1)).astype(np.float64)
    if (near := more.get("near")) is not None:
        t, s = scores.shape[2:]
        far = np.arange(s)[None] - np.arange(s - t, s)[:, None]
        scores = scores + near[:, near.shape[1] // 2 + far]
    if (sinks := more.get("sinks")) is not None:
        sunk = np.broadcast_to(sinks[:, None, None], (*scores.shape[:3], 1))
        scores, seen = np.concatenate([scores, sunk], -1), np.concatenate([seen, seen.any(-1, keepdims=True)], -1)
        v = np.concatenate([v, 0 * v[:, :1]], 1)
    return np.einsum("bhts,bshd->bthd", reference.softmax(scores, seen), v)


def attention_case(packed: bool, form: Form) -> Any:
    """Two key heads for four queries'; documents, and a query that sees nothing. Packed, keys are the queries' own."""

    def case(t: int, more: int, d: int) -> Case:
        s, h, g = t if packed else t + more, 4, 2
        ranges = np.concatenate([Relation(documents=True).ranges(t, np.arange(t)[None] // 2)] * 2).astype(np.int32)
        ranges[1, :, 1] = np.minimum(ranges[1, :, 1] + s - t, s)
        ranges[1, -1] = (0, s) if t < 3 else (1, 1)
        constants = {"ranges": ranges, "bias": numbers(4, form.batch, h, t, s)}
        constants |= {"queries": np.arange(s - t, s, dtype=np.int32)[None], "keys": np.arange(s, dtype=np.int32)[None]}
        shapes = [(2, t, h + 2 * g, d)] if packed else [(2, t, h, d), (2, s, g, d), (2, s, g, d)]
        wanted = {"bias": form.bias == "trained", "near": form.near, "sinks": form.sinks}
        sizes = {"bias": (form.batch, h, t, s), "near": (h, 2 * (s + 2) - 1), "sinks": (h,)}
        trained = [name for name, there in wanted.items() if there]
        fixed = ["bias"] if form.bias == "constant" else []

        def graph(ops: Any, given: Any, *all_: Tensor) -> Tensor:
            x, more = all_[: len(shapes)], dict(zip(trained, all_[len(shapes) :], strict=True))
            near = Near(more["near"], given["queries"], given["keys"]) if form.near else None
            bias = more.get("bias", given["bias"] if fixed else None)
            scores = Scores(form.scale, form.softcap, bias, "bias" in trained, near, more.get("sinks"))
            attend = (lambda x, *last: ops.self_attention(x, h, *last)) if packed else ops.attention
            return attend(*x, given["ranges"], scores)

        def exact(*all_: Array) -> Array:
            x, more = all_[: len(shapes)], dict(zip(trained, all_[len(shapes) :], strict=True))
            more |= {name: constants[name] for name in fixed}
            return attended(form, ranges, *(np.split(x[0], [h, h + g], axis=2) if packed else x), more)

        return Case(shapes + [sizes[name] for name in trained], constants, graph, exact)

    return case


NORM = SimpleNamespace(eps=0.01, unit_offset=False)


def layer_norm_case(biased: bool) -> Any:
    def exact(x: Array, w: Array, *b: Array) -> Array:
        return reference.layernorm(NORM, {"n.weight": w, **({"n.bias": b[0]} if b else {})}, "n", x)

    return lambda rows, columns, inner: Case(
        [(rows, columns, inner), (inner,), *([(inner,)] if biased else [])],
        {},
        lambda ops, t, x, w, *b: ops.layer_norm(x, w, b[0] if b else None, 0.01),
        exact,
    )


def rms_norm_case(rows: int, columns: int, inner: int) -> Case:
    return Case(
        [(rows, columns, inner), (inner,)],
        {},
        lambda ops, t, x, w: ops.rms_norm(x, w, 0.01),
        lambda x, w: reference.rmsnorm(NORM, {"n.weight": w}, "n", x),
    )


def qk_norm_case(whole: bool) -> Any:
    """Norms of each head, or of all heads of queries and of all of keys."""

    def case(rows: int, columns: int, inner: int) -> Case:
        h, g = rows, columns

        def exact(x: Array, q: Array, k: Array) -> Array:
            norm = lambda x, w: reference.rmsnorm(NORM, {"n.weight": w}, "n", x)
            own = lambda x, w: norm(x.reshape(*x.shape[:2], -1), w).reshape(x.shape) if whole else norm(x, w)
            return np.concatenate([own(x[:, :, :h], q), own(x[:, :, h : h + g], k), x[:, :, h + g :]], 2)

        widths = (h * inner, g * inner) if whole else (inner, inner)
        return Case(
            [(2, 3, h + 2 * g, inner), (widths[0],), (widths[1],)],
            {},
            lambda ops, t, x, q, k: ops.qk_norm(x, h, q, k, 0.01),
            exact,
        )

    return case


def residual_case(rows: int, columns: int, inner: int) -> Case:
    shape = (rows, columns, inner)
    return Case([shape, shape], {}, lambda ops, t, x, y: ops.residual(x, y), lambda x, y: x + y)


def activation_case(name: str) -> Any:
    return lambda rows, columns, inner: Case(
        [(rows, columns, inner)], {}, lambda ops, t, x: getattr(ops, name)(x), reference.ACTIVATIONS[name]
    )


def gated_case(name: str) -> Any:
    def exact(both: Array) -> Array:
        gate, up = np.split(both, 2, axis=-1)
        return reference.ACTIVATIONS[name](gate) * up

    return lambda rows, columns, inner: Case(
        [(rows, columns, 2 * inner)], {}, lambda ops, t, both: ops.gated(name, both), exact
    )


def entropy_case(smoothing: float, softcap: float | None = None, z_loss: float = 0.0) -> Any:
    def case(rows: int, columns: int, inner: int) -> Case:
        ids = ids_below(inner, 1, rows)
        return Case(
            [(rows, columns), (inner, columns)],
            {"ids": ids},
            lambda ops, t, x, w: ops.linear_cross_entropy(x, Linear(w), t["ids"], smoothing, softcap, z_loss),
            lambda x, w: reference.cross_entropy(reference.softcapped(x @ w.T, softcap), ids, smoothing, z_loss),
        )

    return case


ACTIVATIONS = ("silu", "gelu", "gelu_erf", "relu", "relu2")
CASES: dict[str, Callable[[int, int, int], Case]] = {
    **{f"matmul {'NT'[a]}{'NT'[b]}": matmul_case(a, b) for a in (False, True) for b in (False, True)},
    **{f"linears {n}{' biased' * b}": linears_case(n, b) for n, b in ((1, True), (2, False), (3, True))},
    "embedding": embedding_case,
    "rotate": rotate_case(False, 0),
    "rotate partly": rotate_case(False, 3),
    "rotate neighbours": rotate_case(True, 1),
    **{f"{'self_' * p}attention {n}": attention_case(p, f) for p in (False, True) for n, f in FORMS.items()},
    "layer_norm": layer_norm_case(False),
    "layer_norm biased": layer_norm_case(True),
    "rms_norm": rms_norm_case,
    "qk_norm": qk_norm_case(False),
    "qk_norm of all heads": qk_norm_case(True),
    "residual": residual_case,
    **{a: activation_case(a) for a in ACTIVATIONS},
    **{f"gated {a}": gated_case(a) for a in ACTIVATIONS},
    "linear_cross_entropy": entropy_case(0.0),
    "linear_cross_entropy smoothed": entropy_case(0.25),
    "linear_cross_entropy softcapped": entropy_case(0.25, 1.5),
    "linear_cross_entropy with z": entropy_case(0.25, 1.5, 0.02),
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


def run_twice(low: Backend, graph: Callable[..., list[Tensor]], inputs: Inputs) -> list[Array]:
    """What a captured graph gives, at the first call and at the next ones."""
    jit = low.jit(graph)
    runs = [[memory(t).copy() for t in jit(inputs, low.inputs)] for _ in range(3)]
    assert all(a.tobytes() == b.tobytes() for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
    return runs[0]


def test_every_operation_of_the_cpu_has_a_case() -> None:
    own = {name.removeprefix("plain_") for name in vars(CPUOps) if not name.startswith("_")}
    elsewhere = {"router", "dispatch", "grouped_linears", "combine"}  # test_experts.py, values and slopes
    elsewhere |= {"store", "taken", "cached_attention"}  # test_kept.py
    elsewhere |= {"update", "average"}  # test_optimizers.py, test_updates.py
    assert own == {name.split()[0] for name in CASES} | {"square_sum", "contiguous_barrier"} | elsewhere


def test_what_a_call_wrote_is_not_copied() -> None:
    x, weight = Tensor(numbers(0, 2, 3, 8)).realize(), Tensor(numbers(1, 8)).realize()
    low = backend("CPU")
    ops = low.ops(low.inputs)
    GlobalCounters.reset()
    ops.contiguous_barrier(ops.rms_norm(x, weight, 1e-5)).realize()
    assert GlobalCounters.kernel_count == 1
    GlobalCounters.reset()
    ops.contiguous_barrier(ops.rms_norm(x, weight, 1e-5)[:, :, ::2]).realize()
    assert GlobalCounters.kernel_count == 2


@pytest.mark.parametrize("shape", ODD, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_in_a_graph(name: str, shape: tuple[int, int, int]) -> None:
    """Within bounds of float64, and never much farther from it than plain tinygrad."""
    case = CASES[name](*shape)
    values = [numbers(i, *s) for i, s in enumerate(case.shapes)]
    doubles = [v.astype(np.float64) for v in values]
    g = numbers(9, *case.exact(*doubles).shape)
    expected = [case.exact(*doubles), *slopes(case.exact, doubles, g.astype(np.float64))]
    errors: list[list[float]] = []
    for plain in (True, False):
        low, inputs = backend("CPU", plain), Inputs()
        inputs.put({**{str(i): v for i, v in enumerate(values)}, **case.constants, "g": g})

        def graph(t: Any, handles: Any, low: Any = low) -> list[Tensor]:
            variables = [t[str(i)] for i in range(len(values))]
            y = case.graph(low.ops(handles), t, *variables)
            out = [x.contiguous() for x in (y, *(y * t["g"]).sum().gradient(*variables))]
            Tensor.realize(*out)
            return out

        made = run_twice(low, graph, inputs)
        errors.append([float(np.abs(m - e).max()) for m, e in zip(made, expected, strict=True)])
        for m, wanted in zip(made, expected, strict=True):
            # 1e-9 is what a finite difference is off by itself.
            assert np.abs(m - wanted).max() <= EPS * (sum(shape) + 16) * max(1, np.abs(wanted).max()) * 4 + 1e-9
    for theirs, ours, wanted in zip(*errors, expected, strict=True):
        assert ours <= 4 * theirs + 8 * EPS * max(1, np.abs(wanted).max()), errors


@pytest.mark.parametrize("options", [(0.9, 0.99, 1e-8, 0.0, 0.1), (0.0, 0.5, 1e-4, 0.1, 0.0)], ids=str)
def test_updates_in_a_graph(options: tuple[float, ...]) -> None:
    """Adam's step in place and the sum of squares, three steps on end."""
    beta1, beta2, eps, l2, decay = options
    start = {n: numbers(i, 3, 7) for i, n in enumerate("wmvg")} | {
        "scalars": np.array([0.02, 1.7, 2.3], np.float32),
        "scale": np.array([0.3], np.float32),
    }
    start["v"] = start["v"] ** 2
    errors = []
    for plain in (True, False):
        low, state = backend("CPU", plain), Inputs().put(start)

        def graph(t: Any, handles: Any, low: Any = low) -> Tensor:
            ops = low.ops(handles)
            total = ops.square_sum(t["g"]).realize()
            rule = AdamStep(beta1, beta2, eps, l2, decay)
            ops.update(Update(rule, (t["w"], t["m"], t["v"]), t["g"], t["scale"], t["scalars"]))
            Tensor.realize(*ops.written)
            return total

        jit, w, m, v = low.jit(graph), *(start[n].astype(np.float64) for n in "wmv")
        for _ in range(3):
            total = float(memory(jit(state, low.inputs))[0])
            g = start["g"] * 0.3 + l2 * w
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            w = w - 0.02 * decay * w - 0.02 * m * 1.7 / (np.sqrt(v * 2.3) + eps)
        assert total == pytest.approx(float((start["g"].astype(np.float64) ** 2).sum()), rel=32 * EPS)
        errors.append([float(np.abs(memory(state[n]) - exact).max()) for n, exact in (("w", w), ("m", m), ("v", v))])
        assert max(errors[-1]) < 100 * EPS
    assert all(ours <= 4 * theirs + 16 * EPS for theirs, ours in zip(*errors, strict=True)), errors
