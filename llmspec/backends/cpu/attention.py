"""Attention in C as functions of tensors, with their gradients: scores, rotary positions, norms of queries and keys.

Shape letters: B batch, T queries, S keys, H query heads, G key heads, d head width, N = H + 2G heads in a row.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from tinygrad import Tensor, UOp, dtypes

from llmspec.backends.cpu import kept
from llmspec.backends.cpu.native import Gradient, call, operands, shape_of
from llmspec.parts.ops import Kept, Scores


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
    reach: int
    places_batch: int
    key_places_batch: int
    sunk: int
    q_stride: int
    kv_stride: int
    dropped: int
    scale: float
    softcap: float
    kept: float


class Drop(NamedTuple):
    """What is dropped of the weights of keys."""

    key: Tensor
    """(2,) uint32, which the random bits hang on."""
    share: float


def attention(
    address: Tensor,
    q_BTHd: Tensor,
    k_BSGd: Tensor,
    v_BSGd: Tensor,
    ranges: Tensor,
    scores: Scores,
    drop: Drop | None = None,
) -> Tensor:
    """softmax(softcap(scale·q·kᵀ) + bias)·v over the keys first … end - 1 of ranges (B or 1, T, 2) -> (B, T, H, d)."""
    (b, t, h, d), (s, g) = shape_of(q_BTHd), shape_of(k_BSGd)[1:3]
    numbers = _numbers((b, t, s, h, g, d), (h * d, g * d), ranges, scores, drop)
    return _attention(address, numbers, (q_BTHd, k_BSGd, v_BSGd), ((0, 0), (1, 0), (2, 0)), ranges, scores, drop)


def self_attention(
    address: Tensor, qkv_BTNd: Tensor, heads: int, ranges: Tensor, scores: Scores, drop: Drop | None = None
) -> Tensor:
    """`attention` with the heads of queries, keys and values side by side: (B, T, H + 2G, d) -> (B, T, H, d)."""
    b, t, n, d = shape_of(qkv_BTNd)
    g = (n - heads) // 2
    numbers = _numbers((b, t, t, heads, g, d), (n * d, n * d), ranges, scores, drop)
    where = ((0, 0), (0, heads * d), (0, (heads + g) * d))
    return _attention(address, numbers, (qkv_BTNd,), where, ranges, scores, drop)


def _numbers(
    sizes: tuple[int, ...], strides: tuple[int, int], ranges: Tensor, scores: Scores, drop: Drop | None = None
) -> _Attention:
    """`sizes` are the first six of the numbers."""
    scale = np.float32(1) / np.sqrt(np.float32(sizes[-1])) if scores.scale is None else np.float32(scores.scale)
    biases = (0, 0) if scores.bias is None else (shape_of(scores.bias)[0], int(scores.bias_gradient))
    near, softcap, distances = scores.near, float(scores.softcap or 0.0), (0, 0, 0)
    if near is not None:
        distances = ((shape_of(near.table)[1] + 1) // 2, shape_of(near.queries)[0], shape_of(near.keys)[0])
    dropped, kept_share = (0, 1.0) if drop is None else (int(drop.share * 2**32), 1 / (1 - drop.share))
    words = (shape_of(ranges)[0], *biases, *distances, int(scores.sinks is not None), *strides, dropped)
    return _Attention._make((*sizes, *words, float(scale), softcap, kept_share))


def cached_attention(address: Tensor, q_BTHd: Tensor, k: Kept, v: Kept, ranges: Tensor, scores: Scores) -> Tensor:
    """`attention` of one query a sequence with keys and values that a cache has rounded."""
    (b, t, h, d), (s, g) = shape_of(q_BTHd), shape_of(k.values)[1:3]
    numbers = (*_numbers((b, t, s, h, g, d), (h * d, g * d), ranges, scores), kept.kind(k))
    more = _more(scores)
    scales = [x.values if x.scales is None else x.scales for x in (k, v)]
    inputs = (q_BTHd, k.values, v.values, *scales, ranges.cast(dtypes.int32), *more.values())
    arguments = tuple((i, 0) for i in range(6)) + _read(4, ((2, 0), (3, 0)), 2, tuple(more))[2:]
    return call("attention_kept", (b * t * h * d,), inputs, numbers, address, None, arguments)[0].reshape(b, t, h, d)


Where = tuple[tuple[int, int], ...]
"""Of queries, keys and values: the tensor that holds them, and where in it."""
MORE = ("bias", "near", "places", "key_places", "sinks", "drop_key")
"""What c/attention.c reads beside them and the ranges; of what is not there, the ranges stand in its place."""


def _more(scores: Scores, drop: Drop | None = None) -> dict[str, Tensor]:
    """What of MORE there is."""
    near = scores.near
    found = {"bias": scores.bias, "sinks": scores.sinks}
    if drop is not None:
        found["drop_key"] = drop.key.bitcast(dtypes.int32)
    if near is not None:
        places = {"places": near.queries.cast(dtypes.int32), "key_places": near.keys.cast(dtypes.int32)}
        found |= {"near": near.table, **places}
    return {name: t for name in MORE if (t := found.get(name)) is not None}


def _attention(
    address: Tensor,
    numbers: _Attention,
    qkv: tuple[Tensor, ...],
    where: Where,
    ranges: Tensor,
    scores: Scores,
    drop: Drop | None,
) -> Tensor:
    more, shape = _more(scores, drop), (numbers.batch, numbers.queries, numbers.heads, numbers.head_dim)
    inputs = (*qkv, ranges.cast(dtypes.int32), *more.values())
    arguments = ((0, 0), (1, 0), *_read(2, where, len(qkv), tuple(more)))
    gradient = _attention_gradient(numbers, where, tuple(more))
    counts = (math.prod(shape), math.prod(shape[:3]))
    return call("attention", counts, inputs, numbers, address, gradient, arguments)[0].reshape(shape)


def _read(before: int, where: Where, count: int, more: tuple[str, ...]) -> Where:
    """Which buffers hold queries, keys and values (`count` tensors after `before` others), ranges and MORE."""
    ranges = before + count
    beside = [ranges + 1 + more.index(name) if name in more else ranges for name in MORE]
    return (*((before + i, at) for i, at in where), (ranges, 0), *((i, 0) for i in beside))


@functools.cache
def _attention_gradient(numbers: _Attention, where: Where, more: tuple[str, ...]) -> Gradient:
    trained = [n for n in more if n in ("near", "sinks") or (n == "bias" and numbers.bias_gradient)]

    def gradient(grad: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (out, sums), (*inputs, address) = operands(node, 2)
        n, counts = 1 + max(i for i, _ in where), [math.prod(shape_of(t)) for t in inputs]
        made = (*counts[:n], *(counts[n + 1 + more.index(name)] for name in trained))
        to = [(n + trained.index(name) if name in trained else 0, 0) for name in ("bias", "near", "sinks")]
        given = [(len(made) + i, 0) for i in range(3)]
        arguments = (*where, *to, *given, *_read(len(made) + 3, where, n, more))
        tensors = (Tensor(grad), out, sums, *inputs)
        done = call("attention_backward", made, tensors, numbers, address, None, arguments)
        to_more = {name: t.uop for name, t in zip(trained, done[n:], strict=True)}
        return None, None, *(t.uop for t in done[:n]), None, *(to_more.get(name) for name in more), None

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


def qk_norm(address: Tensor, qkv_BTNd: Tensor, heads: int, q_weight: Tensor, k_weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` over each head of queries (the first `heads`) and keys, or over all of either, as wide as the weights
    are; values stay as they are: (B, T, H + 2G, d)."""
    b, t, n, d = shape_of(qkv_BTNd)
    q, kv, (q_width,), (k_width,) = heads * d, (n - heads) // 2 * d, shape_of(q_weight), shape_of(k_weight)
    sizes = (b * t, q // q_width, q_width, kv // k_width, k_width, kv)
    inputs, counts = (qkv_BTNd, q_weight, k_weight), (b * t * n * d, b * t * (sizes[1] + sizes[3]))
    return call("qk_norm", counts, inputs, (*sizes, float(eps)), address, _qk_gradient(*sizes))[0].reshape(b, t, n, d)


@functools.cache
def _qk_gradient(*sizes: int) -> Gradient:
    rows, q, q_width, k, k_width, kept = sizes

    def gradient(grad: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (_, rstd), (x, q_weight, k_weight, address) = operands(node, 2)
        counts = (rows * (q * q_width + k * k_width + kept), q_width + k_width)
        inputs = (Tensor(grad), x, q_weight, k_weight, rstd)
        to_x, to_both = call("qk_norm_backward", counts, inputs, sizes, address)
        return None, None, to_x.uop, to_both[:q_width].uop, to_both[q_width:].uop, None

    return gradient
