"""The pieces of a training step that a machine is measured by: small graphs, forward and backward, and their inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmspec.forecast.microbench import Piece
from llmspec.parts.ops import Linear, Scores, Update
from llmspec.parts.updates import AdamStep

if TYPE_CHECKING:
    from tinygrad import Tensor

Tensors = dict[str, "Tensor"]
TOKENS = 1024
"""Of a measured pass."""
WIDTHS = (64, 192, 512, 1024)
"""Inner lengths of the measured products; other lengths lie between them, or are taken as the nearest."""
HEADS, KEY_HEADS, HEAD_WIDTH, CONTEXT = 8, 4, 32, 256
NUMBERS = 1 << 20
"""Of the arrays on which norms, gates and updates are measured."""
VOCAB = 2048
WIDTH = 256
"""Of the head, and of the rows of norms, gates and dropout."""


def pieces() -> dict[str, tuple[Piece, dict[str, Any]]]:
    """Name -> (graph, shapes of its inputs by name; `input_array` makes them)."""
    rows, width, n = TOKENS // CONTEXT, WIDTH, NUMBERS
    flat = (n // width, width)
    return {
        **{f"layer {d}": (_layer, {"x": (TOKENS, d), "w": (2 * d, d), "y": (TOKENS, 2 * d)}) for d in WIDTHS},
        "attend": (
            _attend,
            {
                "x": (rows, CONTEXT, HEADS + 2 * KEY_HEADS, HEAD_WIDTH),
                "ranges": CONTEXT,
                "y": (rows, CONTEXT, HEADS, HEAD_WIDTH),
            },
        ),
        "lose": (_lose, {"x": (TOKENS, width), "w": (VOCAB, width), "targets": TOKENS, "y": (TOKENS,)}),
        "norm": (_norm, {"x": flat, "w": (width,), "y": flat}),
        "gate": (_gate, {"x": (n // width // 2, 2 * width), "y": (n // width // 2, width)}),
        "update": (_update, {"x": (n,), "m": (n,), "v": (n,), "g": (n,), "scalars": 3}),
        "drop": (_drop, {"x": flat, "y": flat, "key": 2}),
        "nothing": (_nothing, {"x": (1,)}),
    }


def _layer(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    y = ops.linear(t["x"], Linear(t["w"]))
    return y, *y.gradient(t["x"], t["w"], gradient=t["y"])


def _attend(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    y = ops.self_attention(t["x"], HEADS, t["ranges"], Scores())
    return y, *y.gradient(t["x"], gradient=t["y"])


def _lose(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    y = ops.linear_cross_entropy(t["x"], Linear(t["w"]), t["targets"])
    return y, *y.gradient(t["x"], t["w"], gradient=t["y"])


def _norm(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    y = ops.contiguous_barrier(t["x"] + ops.rms_norm(t["x"], t["w"], 1e-5))
    return y, *y.gradient(t["x"], t["w"], gradient=t["y"])


def _gate(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    y = ops.gated("silu", t["x"])
    return y, *y.gradient(t["x"], gradient=t["y"])


def _update(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    scale = 1.0 / (ops.square_sum(t["g"]).sqrt() + 1.0)
    rule = AdamStep(beta1=0.9, beta2=0.95, eps=1e-8, l2=0.0, decay=0.1)
    ops.update(Update(rule, (t["x"], t["m"], t["v"]), t["g"], scale.contiguous().realize(), t["scalars"]))
    return tuple(ops.written)


def _drop(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    y = ops.contiguous_barrier(ops.dropout(t["x"], "residual"))
    return y, *y.gradient(t["x"], gradient=t["y"])


def _nothing(ops: Any, t: Tensors) -> tuple[Tensor, ...]:
    return ((t["x"] + 1).contiguous(),)


def input_array(name: str, shape: Any) -> Any:
    """Drawn numbers of a shape; by name the integers that some operations read."""
    import numpy as np

    from llmspec.compiler.masks import Relation

    if name == "ranges":
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
