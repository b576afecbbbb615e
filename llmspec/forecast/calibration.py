"""What a machine makes of the pieces of a training step, measured once in some seconds, forward and backward.

The pieces run through the operations that training uses, so that the rates hold kernels, threads and memory as they
are. llmspec.forecast.estimates adds them up to the steps of a plan.
"""

from __future__ import annotations

from typing import Any

from llmspec.forecast.microbench import Piece, graph_call, usual_seconds
from llmspec.model.device import open_device
from llmspec.parts.base import Frozen
from llmspec.parts.ops import Scores

TOKENS = 1024
"""Of a measured pass."""
WIDTHS = (64, 192, 512, 1024)
"""Inner lengths of the measured products; other lengths lie between them, or are taken as the nearest."""
HEADS, KEY_HEADS, HEAD_WIDTH, CONTEXT = 8, 4, 32, 256
NUMBERS = 1 << 20
"""Of the arrays on which norms, gates and updates are measured."""
VOCAB = 2048
DROPOUT = 0.1
EACH, ROUNDS = 0.04, 8
"""Seconds for each piece in a turn of all pieces, and turns."""
BACKWARD = 3.0
"""Products forward and backward for each one forward."""


class Rates(Frozen):
    """Seconds of the pieces of a step, or how fast they go; FLOPs are those of a Plan's products."""

    widths: tuple[int, ...]
    """Inner lengths of the products below."""
    products: tuple[float, ...]
    """FLOPs a second of a layer, with both gradients."""
    attention: float
    """FLOPs a second of attention, its softmax and masked places included."""
    loss: float
    """FLOPs a second of head and loss, beside the products' rate at the same width: a factor."""
    norm: float
    """Seconds a number of a norm and of what stands beside it on the residual stream."""
    gate: float
    """Seconds a number of the hidden layer."""
    update: float
    """Seconds a weight of clipping and Adam."""
    drop: float
    """Seconds a number of dropout, which draws each of them."""
    call: float
    """Seconds of the smallest step: what a step takes whatever its size, without its kernels."""

    def product(self, width: float) -> float:
        """FLOPs a second of products of this inner length."""
        from itertools import pairwise
        from math import log

        known = list(zip(self.widths, self.products, strict=True))
        for (below, slow), (above, fast) in pairwise(known):
            if width <= above:
                part = max(0.0, log(max(width, 1) / below) / log(above / below))
                return slow + part * (fast - slow)
        return known[-1][1]


def measured_rates(device: str) -> Rates:
    """Measures the pieces in this process. Raises ToolchainError where a CPU has no compiler."""
    open_device(device)
    from tinygrad import Tensor

    def layer(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = ops.linear(t["x"], t["w"])
        return y, *y.gradient(t["x"], t["w"], gradient=t["y"])

    def attend(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = ops.self_attention(t["x"], HEADS, t["spans"], Scores())
        return y, *y.gradient(t["x"], gradient=t["y"])

    def lose(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = ops.linear_cross_entropy(t["x"], t["w"], t["targets"])
        return y, *y.gradient(t["x"], t["w"], gradient=t["y"])

    def norm(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = ops.contiguous_barrier(t["x"] + ops.rms_norm(t["x"], t["w"], 1e-5))
        return y, *y.gradient(t["x"], t["w"], gradient=t["y"])

    def gate(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = ops.gated("silu", t["x"])
        return y, *y.gradient(t["x"], gradient=t["y"])

    def update(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        scale = 1.0 / (ops.square_sum(t["g"]).sqrt() + 1.0)
        ops.adam(
            t["x"],
            t["m"],
            t["v"],
            t["g"],
            scale.contiguous().realize(),
            t["scalars"],
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            l2=0.0,
            decay=0.1,
        )
        return tuple(ops.written)

    def drop(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = ops.contiguous_barrier(ops.dropout(t["x"]))
        return y, *y.gradient(t["x"], gradient=t["y"])

    def nothing(ops: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return ((t["x"] + 1).contiguous(),)

    rows, width, n = TOKENS // CONTEXT, 256, NUMBERS
    flat = (n // width, width)
    pieces: dict[str, tuple[Piece, dict[str, Any]]] = {
        **{f"layer {d}": (layer, {"x": (TOKENS, d), "w": (2 * d, d), "y": (TOKENS, 2 * d)}) for d in WIDTHS},
        "attend": (
            attend,
            {
                "x": (rows, CONTEXT, HEADS + 2 * KEY_HEADS, HEAD_WIDTH),
                "spans": CONTEXT,
                "y": (rows, CONTEXT, HEADS, HEAD_WIDTH),
            },
        ),
        "lose": (lose, {"x": (TOKENS, width), "w": (VOCAB, width), "targets": TOKENS, "y": (TOKENS,)}),
        "norm": (norm, {"x": flat, "w": (width,), "y": flat}),
        "gate": (gate, {"x": (n // width // 2, 2 * width), "y": (n // width // 2, width)}),
        "update": (update, {"x": (n,), "m": (n,), "v": (n,), "g": (n,), "scalars": 3}),
        "drop": (drop, {"x": flat, "y": flat, "key": 2}),
        "nothing": (nothing, {"x": (1,)}),
    }
    calls = [
        graph_call(device, piece, {name: _array(name, shape) for name, shape in shapes.items()}, DROPOUT)
        for piece, shapes in pieces.values()
    ]
    took = dict(zip(pieces, usual_seconds(calls, ROUNDS, EACH), strict=True))
    rates = Rates(
        widths=WIDTHS,
        products=tuple(BACKWARD * 2 * TOKENS * d * 2 * d / took[f"layer {d}"] for d in WIDTHS),
        loss=1.0,
        attention=BACKWARD * 4 * TOKENS * CONTEXT * HEADS * HEAD_WIDTH / took["attend"],
        norm=took["norm"] / n,
        gate=took["gate"] * 2 / n,
        update=took["update"] / n,
        drop=took["drop"] / n,
        call=took["nothing"],
    )
    lost = BACKWARD * 2 * TOKENS * VOCAB * width / took["lose"]
    return rates.model_copy(update={"loss": lost / rates.product(width)})


def _array(name: str, shape: Any) -> Any:
    """Drawn numbers of a shape; by name the integers that some operations read."""
    import numpy as np

    from llmspec.compiler.masks import Relation

    if name == "spans":
        return Relation().ranges(shape)
    rng = np.random.default_rng(0)
    if name == "targets":
        return rng.integers(0, VOCAB, shape).astype(np.int32)
    if name == "key":
        return np.array([1, 2], np.uint32)
    if name == "scalars":
        return np.array([1e-6, 1.0, 1.0], np.float32)
    drawn = rng.standard_normal(shape, np.float32)
    return np.abs(drawn) if name == "v" else drawn
