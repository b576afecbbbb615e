"""The C functions as functions of tensors, with their gradients; those of attention are in attention.py.

Stock tinygrad recomputes the softmax in its backward pass, computes the gradient of an embedding as a one-hot product
and spends most of an activation in a scalar polynomial; the lab book has what each of these calls gains.

Shape letters: B batch, T queries, S keys, H query heads, G key heads, d head width, N rows, I inputs, O outputs,
D width, V vocabulary or rows. Everything is float32, ids and places are int32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from tinygrad import Tensor, UOp, dtypes

from llmspec.backends.cpu.native import Gradient, call, operands, shape_of
from llmspec.parts.ops import Linear, matrices

SILU, GELU, GELU_ERF, RELU, RELU2 = range(5)
KINDS = {"silu": SILU, "gelu": GELU, "gelu_erf": GELU_ERF, "relu": RELU, "relu2": RELU2}
"""Activations by their names among the operations, as elementwise.c numbers them."""


# -- products ----------------------------------------------------------------------------------------------------------
def matmul(address: Tensor, a: Tensor, b: Tensor, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """op(a) (…, M, K) by op(b) (…, K, N) -> (…, M, N); leading axes are equal, or `b` has none and serves all rows."""
    (m, k), (inner, n) = _swap(shape_of(a), transpose_a), _swap(shape_of(b), transpose_b)
    if inner != k:
        raise ValueError(f"shapes do not fit: {shape_of(a)}{' transposed' * transpose_a} by {shape_of(b)}")
    batch, leading = shape_of(a)[:-2], math.prod(shape_of(b)[:-2])
    z = math.prod(batch)
    if leading == 1 and not transpose_a:
        z, m = 1, z * m
    elif batch != shape_of(b)[:-2]:
        raise ValueError(f"leading axes differ: {shape_of(a)} and {shape_of(b)}")
    out = _product(address, a, b, (z, m, n, k, int(transpose_a), int(transpose_b)))
    return out.reshape(*batch, m // (math.prod(batch) if z == 1 else 1), n)


def _swap(shape: tuple[int, ...], swapped: bool) -> tuple[int, int]:
    rows, columns = shape[-2:]
    return (columns, rows) if swapped else (rows, columns)


def _product(address: Tensor, a: Tensor, b: Tensor, sizes: tuple[int, ...]) -> Tensor:
    z, m, n = sizes[:3]
    return call("matmul", (z * m * n,), (a, b), sizes, address, _product_gradient(*sizes))[0]


@functools.cache
def _product_gradient(z: int, m: int, n: int, k: int, ta: int, tb: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (a, b, address) = operands(node, 1)
        # In the operands' stored forms, so that a transposed operand needs no transposed copy.
        to_a = (
            _product(address, b, Tensor(g), (z, k, m, n, tb, 1))
            if ta
            else _product(address, Tensor(g), b, (z, m, k, n, 0, 1 - tb))
        )
        to_b = (
            _product(address, Tensor(g), a, (z, n, k, m, 1, ta))
            if tb
            else _product(address, a, Tensor(g), (z, k, n, m, 1 - ta, 0))
        )
        return None, to_a.uop, to_b.uop, None

    return gradient


def linears(address: Tensor, x: Tensor, layers: Sequence[Linear], by_sequence: bool = False) -> Tensor:
    """x (…, I) by up to three weights (O, I), plus biases -> (…, ΣO), side by side.

    One call, so that the gradients of x are summed where they are made. Either all layers have a bias or none. With
    `by_sequence`, each sequence of x (B, …, I) gets bit for bit what it gets alone, and there is no gradient.
    """
    n, i = math.prod(shape_of(x)[:-1]), shape_of(x)[-1]
    weights, biases = matrices(layers), [layer.bias for layer in layers if layer.bias is not None]
    wide = tuple(shape_of(w)[0] for w in weights) + (0,) * (3 - len(layers))
    sizes, count = (n, i, *wide, int(bool(biases))), (n * sum(wide),)
    inputs = (x, *_three(weights), *_three(biases or weights))
    if by_sequence:
        apart = (shape_of(x)[0], n // shape_of(x)[0], *sizes[1:])
        y = call("linear_by_sequence", count, inputs, apart, address)[0]
    else:
        y = call("linear", count, inputs, sizes, address, _linear_gradient(*sizes))[0]
    return y.reshape(*shape_of(x)[:-1], -1)


def _three(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A C function has a fixed number of arguments: those that are not there are the first again, and not read."""
    return [*tensors, *[tensors[0]] * (3 - len(tensors))]


@functools.cache
def _linear_gradient(n: int, i: int, *wide_biased: int) -> Gradient:
    *wide, biased = wide_biased

    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (x, *weights) = operands(node, 1)
        counts = (n * i, *(max(1, o * i) for o in wide), sum(wide) if biased else 1)
        inputs = (Tensor(g), x, *weights[:3])
        to_x, *to_w, to_b = call("linear_backward", counts, inputs, (n, i, *wide_biased), weights[-1])
        starts = [sum(wide[:j]) for j in range(3)]
        given = [g.uop if o else None for g, o in zip(to_w, wide, strict=True)]
        more = [to_b[s : s + o].uop if o and biased else None for s, o in zip(starts, wide, strict=True)]
        return None, to_x.uop, *given, *more, None

    return gradient


def linear_cross_entropy(
    address: Tensor,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    label_smoothing: float,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> Tensor:
    """Losses (N,) in nats of targets in 0 … V-1 under the logits hidden·weightᵀ, bounded by a softcap where there is
    one; the logits are stored once and reused."""
    (n, d), v = shape_of(hidden_ND), shape_of(weight_VD)[0]
    inputs = (hidden_ND, weight_VD, targets_N.cast(dtypes.int32))
    return call(
        "linear_cross_entropy",
        (n, n * v),
        inputs,
        (n, d, v, float(label_smoothing), float(softcap or 0), float(z_loss)),
        address,
        _entropy_gradient(n, d, v),
    )[0]


@functools.cache
def _entropy_gradient(n: int, d: int, v: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (_, slopes), (hidden, weight, _, address) = operands(node, 2)
        to_hidden, to_weight = call(
            "linear_cross_entropy_backward", (n * d, v * d), (Tensor(g), slopes, hidden, weight), (n, d, v), address
        )
        return None, None, to_hidden.uop, to_weight.uop, None, None

    return gradient


def embedding(address: Tensor, weight_VD: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table (V, D) at ids (…) -> (…, D). Others than 0 … V-1 end the step that reads them."""
    (v, d), n = shape_of(weight_VD), math.prod(shape_of(ids))
    rows = call("gather_rows", (n * d,), (weight_VD, ids.cast(dtypes.int32)), (n, d, v), address, _scatter(n, d, v))[0]
    return rows.reshape(*shape_of(ids), d)


@functools.cache
def _scatter(n: int, d: int, v: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (_, ids, address) = operands(node, 1)
        return None, call("scatter_rows", (v * d,), (Tensor(g), ids), (n, d, v), address)[0].uop, None, None

    return gradient


# -- norms, sums and activations -----------------------------------------------------------------------------------
def rms_norm(address: Tensor, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axis."""
    d, n = shape_of(x)[-1], math.prod(shape_of(x)[:-1])
    done = call("rms_norm", (n * d, n), (x, weight_D), (n, d, float(eps)), address, _rms_gradient(n, d))[0]
    return done.reshape(shape_of(x))


@functools.cache
def _rms_gradient(n: int, d: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (_, r), (x, weight, address) = operands(node, 2)
        to_x, to_weight = call("rms_norm_backward", (n * d, d), (Tensor(g), x, weight, r), (n, d), address)
        return None, None, to_x.uop, to_weight.uop, None

    return gradient


def layer_norm(address: Tensor, x: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / √(variance + eps) · weight + bias over the last axis."""
    d, n = shape_of(x)[-1], math.prod(shape_of(x)[:-1])
    biased = int(bias_D is not None)
    inputs = (x, weight_D, weight_D if bias_D is None else bias_D)
    return call(
        "layer_norm", (n * d, 2 * n), inputs, (n, d, biased, float(eps)), address, _layer_gradient(n, d, biased)
    )[0].reshape(shape_of(x))


@functools.cache
def _layer_gradient(n: int, d: int, biased: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (_, stats), (x, weight, _, address) = operands(node, 2)
        to_x, to_both = call("layer_norm_backward", (n * d, 2 * d), (Tensor(g), x, weight, stats), (n, d), address)
        return None, None, to_x.uop, to_both[:d].uop, to_both[d:].uop if biased else None, None

    return gradient


def add(address: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x + y, of one shape."""
    n = math.prod(shape_of(x))
    return call("add", (n,), (x, y), (n,), address, _both)[0].reshape(shape_of(x))


def _both(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
    return None, g, g, None


def activation(address: Tensor, x: Tensor, kind: int) -> Tensor:
    """An activation of KINDS, element by element."""
    n = math.prod(shape_of(x))
    return call("activation", (n,), (x,), (n, kind), address, _activation_gradient(n, kind))[0].reshape(shape_of(x))


@functools.cache
def _activation_gradient(n: int, kind: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (x, address) = operands(node, 1)
        return None, call("activation_backward", (n,), (Tensor(g), x), (n, kind), address)[0].uop, None

    return gradient


def gated(address: Tensor, both: Tensor, kind: int) -> Tensor:
    """activation(x) · up, for x and up side by side: (…, 2D) -> (…, D)."""
    n, d = math.prod(shape_of(both)[:-1]), shape_of(both)[-1] // 2
    return call("gated", (n * d,), (both,), (n, d, kind), address, _gated_gradient(n, d, kind))[0].reshape(
        *shape_of(both)[:-1], d
    )


@functools.cache
def _gated_gradient(n: int, d: int, kind: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (both, address) = operands(node, 1)
        return None, call("gated_backward", (2 * n * d,), (Tensor(g), both), (n, d, kind), address)[0].uop, None

    return gradient
