"""Attention in C as functions of tensors, with their gradients: scores, rotary positions, norms of queries and keys.

Shape letters: B batch, T queries, S keys, H query heads, G key heads, d head width, N = H + 2G heads in a row.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from tinygrad import Tensor, UOp, dtypes

from llmspec.backends.cpu.native import Gradient, call, operands, shape_of
from llmspec.parts.ops import Scores


class _Attention(NamedTuple):
    """The numbers of c/attention.c, in its order: ATTENTION_NUMBERS says what they are."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    ranges_batch: int
    bias_batch: int
    bias_gradient: int
    q_stride: int
    kv_stride: int
    scale: float
    softcap: float


def attention(
    address: Tensor, q_BTHd: Tensor, k_BSGd: Tensor, v_BSGd: Tensor, ranges: Tensor, scores: Scores
) -> Tensor:
    """softmax(softcap(scale·q·kᵀ) + bias)·v over the keys first … end - 1 of ranges (B or 1, T, 2) -> (B, T, H, d)."""
    (b, t, h, d), (s, g) = shape_of(q_BTHd), shape_of(k_BSGd)[1:3]
    numbers = _numbers((b, t, s, h, g, d), (h * d, g * d), ranges, scores)
    return _attention(address, numbers, (q_BTHd, k_BSGd, v_BSGd), ((0, 0), (1, 0), (2, 0)), ranges, scores)


def self_attention(address: Tensor, qkv_BTNd: Tensor, heads: int, ranges: Tensor, scores: Scores) -> Tensor:
    """`attention` with the heads of queries, keys and values side by side: (B, T, H + 2G, d) -> (B, T, H, d)."""
    b, t, n, d = shape_of(qkv_BTNd)
    g = (n - heads) // 2
    numbers = _numbers((b, t, t, heads, g, d), (n * d, n * d), ranges, scores)
    where = ((0, 0), (0, heads * d), (0, (heads + g) * d))
    return _attention(address, numbers, (qkv_BTNd,), where, ranges, scores)


def _numbers(sizes: tuple[int, ...], strides: tuple[int, int], ranges: Tensor, scores: Scores) -> _Attention:
    """`sizes` are the first six of the numbers."""
    scale = np.float32(1) / np.sqrt(np.float32(sizes[-1])) if scores.scale is None else np.float32(scores.scale)
    biases = (0, 0) if scores.bias is None else (shape_of(scores.bias)[0], int(scores.bias_gradient))
    softcap = float(scores.softcap or 0.0)
    return _Attention._make((*sizes, shape_of(ranges)[0], *biases, *strides, float(scale), softcap))


Where = tuple[tuple[int, int], ...]
"""Of queries, keys and values: the tensor that holds them, and where in it."""


def _attention(
    address: Tensor, numbers: _Attention, qkv: tuple[Tensor, ...], where: Where, ranges: Tensor, scores: Scores
) -> Tensor:
    n, bias = len(qkv), [] if scores.bias is None else [scores.bias]
    shape = (numbers.batch, numbers.queries, numbers.heads, numbers.head_dim)
    arguments = ((0, 0), (1, 0), *((2 + i, at) for i, at in where), (2 + n, 0), (2 + n + len(bias), 0))
    inputs = (*qkv, ranges.cast(dtypes.int32), *bias)
    gradient = _attention_gradient(numbers, where)
    counts = (math.prod(shape), math.prod(shape[:3]))
    return call("attention", counts, inputs, numbers, address, gradient, arguments)[0].reshape(shape)


@functools.cache
def _attention_gradient(numbers: _Attention, where: Where) -> Gradient:
    def gradient(grad: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (out, sums), (*inputs, address) = operands(node, 2)
        n, counts = 1 + max(i for i, _ in where), [math.prod(shape_of(t)) for t in inputs]
        made = counts[:n] + counts[n + 1 :] * numbers.bias_gradient
        given, biased = len(made) + 3, len(inputs) - n - 1
        arguments = (
            *where,
            (len(made) - 1, 0),
            *((len(made) + i, 0) for i in range(3)),
            *((given + i, at) for i, at in where),
            (given + n, 0),
            (given + n + biased, 0),
        )
        tensors = (Tensor(grad), out, sums, *inputs)
        to_qkv = call("attention_backward", tuple(made), tensors, numbers, address, None, arguments)
        to_bias = ([to_qkv.pop().uop] if numbers.bias_gradient else [None]) * biased
        return None, None, *(t.uop for t in to_qkv), None, *to_bias, None

    return gradient


def rotate(
    address: Tensor, x_BTHd: Tensor, heads: int, cos: Tensor, sin: Tensor, places: Tensor, interleaved: bool
) -> Tensor:
    """Rotary positions at places (B or 1, T) for the first numbers of the first `heads`; tables (positions, width)."""
    rows, width = shape_of(cos)
    sizes = (*shape_of(x_BTHd), heads, width, int(interleaved), shape_of(places)[0], rows)
    return _turn(address, x_BTHd, cos, sin, places.cast(dtypes.int32), sizes, 1).reshape(shape_of(x_BTHd))


def _turn(
    address: Tensor, x: Tensor, cos: Tensor, sin: Tensor, places: Tensor, sizes: tuple[int, ...], sign: int
) -> Tensor:
    return call(
        "rotate", (math.prod(sizes[:4]),), (x, cos, sin, places), (*sizes, sign), address, _turn_back(*sizes, sign)
    )[0]


@functools.cache
def _turn_back(*sizes: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (_, cos, sin, places, address) = operands(node, 1)
        back = _turn(address, Tensor(g), cos, sin, places, sizes[:-1], -sizes[-1])
        return None, back.uop, None, None, None, None

    return gradient


def qk_norm(
    address: Tensor, qkv_BTNd: Tensor, heads: int, q_weight_d: Tensor, k_weight_d: Tensor, eps: float
) -> Tensor:
    """`rms_norm` over each head of queries (the first `heads`) and keys; values stay as they are: (B, T, H + 2G, d)."""
    b, t, n, d = shape_of(qkv_BTNd)
    sizes = (b * t, heads, (n - heads) // 2, d)
    inputs, counts = (qkv_BTNd, q_weight_d, k_weight_d), (b * t * n * d, b * t * (heads + sizes[2]))
    return call("qk_norm", counts, inputs, (*sizes, float(eps)), address, _qk_gradient(*sizes))[0].reshape(b, t, n, d)


@functools.cache
def _qk_gradient(*sizes: int) -> Gradient:
    rows, h, g, d = sizes

    def gradient(grad: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (_, rstd), (x, q, k, address) = operands(node, 2)
        counts = (rows * (h + 2 * g) * d, 2 * d)
        to_x, to_both = call("qk_norm_backward", counts, (Tensor(grad), x, q, k, rstd), sizes, address)
        return None, None, to_x.uop, to_both[:d].uop, to_both[d:].uop, None

    return gradient
