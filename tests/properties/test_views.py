"""What C functions are given of a view: the stretch of memory that it is, or a copy of numbers that lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.compiler import compile_spec
from llmspec.compiler.inputs import declared_inputs
from llmspec.model.device import open_device

open_device("CPU")
from tinygrad import Tensor  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.cpu.native import in_order, is_stretch  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.spec import load_spec  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

SMALL = (
    "model.layers=1",
    "model.attention={kind: multi_head, heads: 2, bias: true}",
    "tokenizer={kind: byte}",
    "phases.pretrain.micro_batch_size=2",
    "phases.pretrain.optimizer={kind: adam, lr: 1e-2}",
    "phases.pretrain.max_grad_norm=null",
)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """A shape, and a range that is not empty of each axis."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    begins = [draw(st.integers(0, n - 1)) for n in shape]
    return shape, tuple(slice(b, draw(st.integers(b + 1, n))) for b, n in zip(begins, shape, strict=True))


@given(cuts())
def test_a_stretch_is_what_numpy_calls_contiguous(cut: tuple[tuple[int, ...], tuple[slice, ...]]) -> None:
    shape, ranges = cut
    part = np.empty(shape, np.float32)[ranges]
    assert is_stretch(shape, part.shape) == part.flags.c_contiguous
    x = tensors_from_numpy(x=np.arange(np.prod(shape), dtype=np.float32).reshape(shape))["x"]
    view = x[ranges]
    assert (in_order(view) is view) == part.flags.c_contiguous


VIEWS: dict[str, Any] = {
    "every second row": lambda x: x.reshape(6, 2, 4)[:, 0],
    "the last rows": lambda x: x[6:],
    "columns": lambda x: x.reshape(6, 8)[:, 4:],
    "turned": lambda x: x.reshape(4, 12).T[:6],
    "one row many times": lambda x: x[:1].expand(6, 4) if isinstance(x, Tensor) else np.broadcast_to(x[:1], (6, 4)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_products_of_views_that_others_read_too(name: str) -> None:
    """Values, and slopes through both ways; once as it is and twice as a captured step."""
    low = backend("CPU")
    x, w = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32), np.eye(4, 3, dtype=np.float32) + 0.5

    def graph(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        ops = low.ops(inputs)
        made = ops.silu(ops.matmul(inputs["x"], inputs["square"]))
        made = made / made.square().sum(-1, keepdim=True).sqrt()
        out = ops.matmul(VIEWS[name](made), inputs["w"])
        whole = out.square().sum() + made.sum()
        slope, *_ = whole.gradient(inputs["square"])
        Tensor.realize(out, whole, slope)
        return out, whole, slope

    def exact(square: np.ndarray) -> tuple[np.ndarray, float]:
        y = x.astype(np.float64) @ square
        y = y / (1 + np.exp(-y))
        y /= np.sqrt((y**2).sum(-1, keepdims=True))
        out = VIEWS[name](y) @ w.astype(np.float64)
        return out, (out**2).sum() + y.sum()

    square = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    held = {**tensors_from_numpy(x=x, w=w, square=square), **low.inputs}
    captured = low.jit(graph, f"view {name}")
    for step in (graph, captured, captured, captured):
        out, whole, slope = (to_numpy(t).copy() for t in step(held))
        wide, total = exact(square.astype(np.float64))
        assert np.abs(out - wide).max() < 1e-5 and float(whole) == pytest.approx(total, rel=1e-5)
        way = np.random.default_rng(2).standard_normal((4, 4))
        ahead, back = (exact(square + s * 1e-6 * way)[1] for s in (1, -1))
        assert float((slope * way).sum()) == pytest.approx((ahead - back) / 2e-6, rel=1e-4)


def test_an_update_follows_each_bias_that_lies_beside_others() -> None:
    """Gradients of biases of layers that are computed together are stretches of one array. The first step of Adam moves
    each number by the rate, against its gradient's sign."""
    sets = ("model.mlp={kind: gelu, bias: true}", "model.norm={kind: layernorm}", "model.d_model=16", "model.context=8")
    plan = compile_spec(load_spec(tiny.ROOT / "specs" / "quickstart.yaml", [*sets, *SMALL]).spec)
    phase = plan.phases[0]
    rng = np.random.default_rng(0)
    drawn = {t.name: rng.standard_normal(t.shape).astype(np.float32) * 0.3 for t in phase.model.tensors}
    trainer = Trainer(plan, phase, backend("CPU"), lambda tensor: drawn[tensor.name])
    batch = {
        name: rng.integers(0, 9, declared.shape).astype(declared.dtype)
        if declared.dtype == "int32"
        else np.ones(declared.shape, declared.dtype)
        for name, declared in declared_inputs(phase.model, phase.phase).items()
    }
    inputs = trainer._inputs(batch, float(batch["loss_weights"].sum()), 0, 0, {})
    _, found = trainer.steps.gradients(trainer.weights, trainer.tables, inputs)
    slopes = {name: to_numpy(g).copy() for name, g in zip(trainer.steps.trained, found, strict=True)}
    trainer.step([batch], phase.phase.optimizer.scalars(1.0, 1), 0)
    moved = {name: w - drawn[name] for name, w in trainer.weight_arrays().items()}
    biases = [name for name in slopes if name.endswith("bias")]
    assert len(biases) > 6
    for name in biases:
        clear = np.abs(slopes[name]) > 1e-6
        assert np.abs(moved[name] + 1e-2 * np.sign(slopes[name]))[clear].max(initial=0) < 1e-4, name
