"""Drawn calls of attention with ranges and scores of any kind, as tests/kernel_cases.py has them for other functions.

B batch, T queries, S keys, H query heads, G key heads, d head width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import reference
from kernel_cases import NEGLIGIBLE, SEEDS, TINY
from kernels import EPS, Array, Case, Output, Pick, numbers
from reference_dropout import of_attention


def drawn_ranges(pick: Pick, seed: int, rows: int, t: int, s: int) -> Array:
    """Keys of each query, (rows, t, 2): its past, the last of it, or any, some or all of them none."""
    rng, kind = np.random.default_rng([seed, t, s]), pick(("past", "any", "empty", "few", "window"))
    ends = np.sort(rng.integers(0, s + 1, (rows, t, 2)), axis=-1)
    if kind in ("past", "window"):
        ends[..., 1] = np.minimum(np.arange(t) + 1 + max(0, s - t), s)
        ends[..., 0] = 0 if kind == "past" else np.maximum(0, ends[..., 1] - pick((1, 7, 33)))
    if kind == "empty":
        ends[..., 1] = ends[..., 0]
    if kind == "few":
        ends[rng.random((rows, t)) < 0.7] = (s, s) if pick((0, 1)) else (0, 0)
    return ends.astype(np.int32)


class Terms(NamedTuple):
    """What scores are made of beside queries and keys: softcap·tanh(scale·q·k / softcap) + bias, 0 for no softcap.

    `near` (H, 2R - 1) is added by distance, and `sinks` (H,) are one more score of each query, without a value.
    """

    scale: float
    softcap: float
    bias: Array | None
    near: Array | None = None
    distances: Array | None = None  # (B, T, S): place in `near`
    sinks: Array | None = None
    factors: Array | float = 1.0  # (B, H, T, S): what dropout multiplies the weights with


class Seen(NamedTuple):
    """Scores (B, H, T, S) in float64, how far each may be off, which keys are seen; the softcap's derivative."""

    scores: Array
    off: Array
    seen: Array
    derivative: Array
    derivative_off: Array


def seen_scores(q: Array, k: Array, ranges: Array, terms: Terms) -> Seen:
    share, d, keys = q.shape[2] // k.shape[2], q.shape[-1], np.arange(k.shape[1])
    q64, k64 = q.astype(np.float64), np.repeat(k.astype(np.float64), share, axis=2)
    scores = np.einsum("bthd,bshd->bhts", q64, k64) * terms.scale
    off = 4 * EPS * (d + 4) * np.einsum("bthd,bshd->bhts", np.abs(q64), np.abs(k64)) * abs(terms.scale)
    derivative, derivative_off = np.ones_like(scores), np.zeros_like(scores)
    if cap := terms.softcap:
        inner, off = scores / cap, off + EPS * np.abs(scores)
        scores, derivative = cap * np.tanh(inner), 1 / np.cosh(np.minimum(np.abs(inner), 300)) ** 2
        # tanh passes on at most all of an error; its derivative's own logarithm has a slope of at most 2
        derivative_off = derivative * (np.expm1(2 * off / cap) + EPS * (24 + 2 * np.minimum(np.abs(inner), 44))) + TINY
        off = off + 8 * EPS * np.abs(scores)
    if terms.bias is not None:
        scores, off = scores + terms.bias, off + 2 * EPS * (np.abs(terms.bias) + np.abs(scores))
    if terms.near is not None:
        added = np.moveaxis(terms.near[:, terms.distances].astype(np.float64), 0, 1)
        scores, off = scores + added, off + 2 * EPS * (np.abs(added) + np.abs(scores))
    seen = (keys >= ranges[..., :1]) & (keys < ranges[..., 1:])
    return Seen(scores, off, np.broadcast_to(seen[:, None], scores.shape), derivative, derivative_off)


def forward(q: Array, k: Array, v: Array, ranges: Array, terms: Terms) -> list[Output]:
    """The result (B, T, H, d), and the logarithm of each query's sum (B, T, H)."""
    scores, off, seen, *_ = seen_scores(q, k, ranges, terms)
    v64 = np.repeat(v.astype(np.float64), q.shape[2] // v.shape[2], axis=2)
    s = k.shape[1]
    if terms.sinks is not None:  # as a key that every query with a key sees
        sunk = np.broadcast_to(terms.sinks[:, None, None].astype(np.float64), (*scores.shape[:3], 1))
        scores, off = np.concatenate([scores, sunk], -1), np.concatenate([off, 0 * sunk], -1)
        seen = np.concatenate([seen, seen.any(-1, keepdims=True)], -1)
        v64 = np.concatenate([v64, 0 * v64[:, :1]], 1)
    weights = reference.softmax(scores, seen)
    slack = np.where(seen, off, 0).max(-1, keepdims=True)
    wrong = weights * (np.expm1(2 * slack) + EPS * (2 * s + NEGLIGIBLE + 16)) + TINY * seen
    if np.ndim(factors := terms.factors):
        factors = np.concatenate([factors, np.ones((*factors.shape[:3], weights.shape[-1] - s))], -1)
    weights, wrong = weights * factors, wrong * factors
    out = np.einsum("bhts,bshd->bthd", weights, v64)
    room = np.einsum("bhts,bshd->bthd", wrong, np.abs(v64))
    high = np.where(seen, scores, -np.inf).max(-1)
    some = seen.any(-1)
    high = np.where(some, high, 0)
    sums = np.where(
        some, high + np.log(np.where(seen, np.exp(np.where(seen, scores, 0) - high[..., None]), 0).sum(-1) + ~some), 0
    )
    far = np.where(some, 2 * slack[..., 0] + EPS * (2 * s + 16 + 4 * np.abs(high)), 0)
    return [Output(out, room), Output(sums.transpose(0, 2, 1), far.transpose(0, 2, 1))]


def backward(
    g: Array, out: Array, sums: Array, q: Array, k: Array, v: Array, ranges: Array, terms: Terms
) -> list[Output]:
    """Gradients for q, k, v and bias of the formula in float64, from the result and sums that were kept."""
    scores, off, seen, derivative, derivative_off = seen_scores(q, k, ranges, terms)
    share = q.shape[2] // k.shape[2]
    q64, g64, o64 = (a.astype(np.float64) for a in (q, g, out))
    k64, v64 = (np.repeat(a.astype(np.float64), share, axis=2) for a in (k, v))
    total = sums.astype(np.float64).transpose(0, 2, 1)[..., None]
    weights = np.where(seen, np.exp(np.minimum(scores - total, 0, where=seen, out=np.zeros_like(scores))), 0)
    passed_on = np.expm1(off + 2 * EPS * (np.abs(scores) + np.abs(total)))
    wrong = weights * (passed_on + EPS * (NEGLIGIBLE + 16)) + TINY * seen
    slope_of = lambda f: (
        np.einsum("bthd,bshd->bhts", f(g64), f(v64)),
        np.einsum("bthd,bthd->bht", f(g64), f(o64))[..., None],
    )
    (at, dot), (size, dots) = slope_of(lambda a: a), slope_of(np.abs)
    at, size = at * terms.factors, size * terms.factors
    slopes, rough = weights * (at - dot), size + dots
    slopes_off = wrong * np.abs(at - dot) + (weights + wrong) * 4 * EPS * (q.shape[-1] + 4) * rough
    few = [Output(*few) for few in few_gradients(slopes, slopes_off, total, dot, dots, terms, seen)]
    shared = terms.bias is not None and len(terms.bias) == 1
    to_bias, bias_off = ((a.sum(0, keepdims=True) if shared else a) for a in (slopes, slopes_off))
    bias_off = bias_off + EPS * len(q) * np.abs(slopes).sum(0, keepdims=True) * shared + TINY
    slopes_off = (slopes_off * (derivative + derivative_off) + np.abs(slopes) * derivative_off) * abs(terms.scale)
    slopes_off = slopes_off + 2 * EPS * np.abs(slopes * derivative * terms.scale) + TINY * seen
    slopes = slopes * derivative * terms.scale
    grouped = lambda a: a.reshape(*a.shape[:2], -1, share, a.shape[-1]).sum(3)
    counts = 4 * EPS * (share * q.shape[1] + k.shape[1] + 4)

    def summed(form: str, x: Array, x_off: Array, y: Array, regroup: bool) -> Output:
        exact, size, wide = (np.einsum(form, a, b) for a, b in ((x, y), (np.abs(x), np.abs(y)), (x_off, np.abs(y))))
        room = counts * size + wide * (1 + counts) + TINY
        return Output(grouped(exact), grouped(room)) if regroup else Output(exact, room)

    return [
        summed("bhts,bshd->bthd", slopes, slopes_off, k64, False),
        summed("bhts,bthd->bshd", slopes, slopes_off, q64, True),
        summed("bhts,bthd->bshd", weights * terms.factors, (wrong + EPS * weights) * terms.factors, g64, True),
        Output(to_bias, bias_off),
        *few,
    ]


def few_gradients(
    slopes: Array, slopes_off: Array, total: Array, dot: Array, dots: Array, terms: Terms, seen: Array
) -> list[tuple[Array, Array]]:
    """Of `near` and of sinks, with the errors that they may have."""
    found = []
    if terms.near is not None:
        to, off, size = (np.zeros(terms.near.shape) for _ in range(3))
        for b, h in np.ndindex(slopes.shape[:2]):
            at = np.where(seen[b, h], terms.distances[b], 0)
            for into, what in ((to, slopes), (off, slopes_off), (size, np.abs(slopes))):
                np.add.at(into[h], at, np.where(seen[b, h], what[b, h], 0))
        found.append((to, off + 2 * EPS * slopes[0].size * size + TINY))
    if terms.sinks is not None:
        some = seen.any(-1, keepdims=True)
        share = np.exp(np.minimum(terms.sinks[:, None, None] - total, 0)) * some
        grown = EPS * (NEGLIGIBLE + 40 + 2 * np.abs(total) + 2 * np.abs(terms.sinks[:, None, None]))
        room = share * (grown * np.abs(dot) + 4 * EPS * (slopes.shape[-1] + 140) * dots)
        size = 2 * EPS * slopes[:, 0, :, 0].size * np.abs(share * dot)
        found.append((-(share * dot).sum((0, 2, 3)), (room + size).sum((0, 2, 3)) + TINY))
    return found


def side_by_side(outputs: list[Output]) -> Output:
    return Output(*(np.concatenate([o[i] for o in outputs], axis=2) for i in range(2)))


def near_and_sinks(
    pick: Pick, seed: int, sizes: tuple[int, int, int, int], terms: Terms
) -> tuple[Terms, list[Array], list[int]]:
    """The terms with what is looked up by distance and with sinks, each if drawn; its arrays; and the words of both."""
    (b, t, s, h), arrays, words = sizes, [], [0, 0, 0, 0]
    if pick((0, 1)):
        words[:3] = s + pick((0, 3)), pick((1, b)), pick((1, b))
        near = numbers(seed + 10, h, 2 * words[0] - 1, spread=2.0)
        query_at = np.broadcast_to(np.arange(t) + pick((0, s - t)), (words[1], t)).astype(np.int32)
        key_at = np.broadcast_to(np.arange(s), (words[2], s)).astype(np.int32)
        arrays = [near, np.ascontiguousarray(query_at), np.ascontiguousarray(key_at)]
        distances = np.broadcast_to(key_at[:, None, :] - query_at[:, :, None] + words[0] - 1, (b, t, s))
        terms = terms._replace(near=near, distances=distances)
    if pick((0, 1)):
        words[3], terms = 1, terms._replace(sinks=numbers(seed + 11, h, spread=2.0))
    return terms, arrays, words


def more_at(ranges: int, more: list[list[Array]]) -> list[tuple[int, int]]:
    """Where the ranges and what else there is lie; of what there is not, the ranges."""
    found, at = [(ranges, 0)], ranges
    for some in more:
        at += len(some)
        found.append((at if some else ranges, 0))
    return found


def attentions(pick: Pick, packed: bool, longer: int | None = None, plain: bool = True) -> list[Case]:
    """Forward and backward, heads side by side or apart; there, with keys beyond the queries, drawn or given.

    Scores are `plain`, or have a scale, a softcap and a trained bias, each if drawn.
    """
    seed, b, g, share = pick(SEEDS), pick((1, 2)), pick((1, 2)), pick((1, 3))
    t, d = pick((1, 2, 13, 55, 56, 57, 113)), pick((1, 2, 8, 17, 33))
    bs, bb, spread = pick((1, b)), pick((0, 1, b)), pick((0.1, 1.0, 4.0))
    longer = 0 if packed else pick((0, 1, 20, 70)) if longer is None else longer
    s, h = t + longer, g * share
    q, k, v, grad = (
        numbers(seed + i, b, n, heads, d, spread=size)
        for i, (n, heads, size) in enumerate(((t, h, spread), (s, g, spread), (s, g, 1.0), (t, h, 1.0)))
    )
    ranges = drawn_ranges(pick, seed, bs, t, s)
    bias = numbers(seed + 9, bb, h, t, s, spread=3.0) if bb else None
    scale, softcap, trained = float(np.float32(1) / np.sqrt(np.float32(d))), 0.0, 0
    if not plain:
        scale = pick((scale, 1.0, float(np.float32(0.07))))
        softcap, trained = pick((0.0, 0.5, 5.0, 50.0)), int(bb > 0 and pick((0, 1)))
    terms, near, words = Terms(scale, softcap, bias), [], [0, 0, 0, 0]
    drop_key, dropped, kept = [], 0, 1.0
    if not plain:
        terms, near, words = near_and_sinks(pick, seed, (b, t, s, h), terms)
        if rate := pick((0.0, 0.0, 0.1, 0.5, 0.9)):
            drop_key = [np.random.default_rng(seed).integers(0, 2**32, 2, np.uint32)]
            dropped, kept = int(rate * 2**32), float(np.float32(1 / (1 - rate)))
            terms = terms._replace(factors=of_attention(drop_key[0], (b, h, t, s), rate))
    done = forward(q, k, v, ranges, terms)
    out, sums = (o.exact.astype(np.float32) for o in done)
    *back, to_bias = backward(grad, out, sums, q, k, v, ranges, terms)[:4]
    few = backward(grad, out, sums, q, k, v, ranges, terms)[4:]
    to_more = [*([to_bias] if trained else []), *few]
    stride = (h + 2 * g) * d if packed else 0
    words = [b, t, s, h, g, d, bs, bb, trained, *words, stride or h * d, stride or g * d, dropped, scale, softcap, kept]
    more = {"bias": [bias] if bb else [], "near": near[:1], "queries": near[1:2], "keys": near[2:]}
    more |= {"sinks": [] if terms.sinks is None else [terms.sinks], "drop_key": [k.view(np.int32) for k in drop_key]}
    extra, qkv = [ranges, *(array for some in more.values() for array in some)], [q, k, v]
    where, to_where = [(2, 0), (3, 0), (4, 0)], [(0, 0), (1, 0), (2, 0)]
    if packed:
        qkv, back = [np.concatenate(qkv, axis=2)], [side_by_side(back)]
        where, to_where = ([(n, at * d) for at in (0, h, h + g)] for n in (2, 0))
    n, made = len(qkv), len(back) + len(to_more)

    last = lambda before: more_at(before + n, list(more.values()))
    trains, at = [trained, bool(near), terms.sinks is not None], len(back) - 1
    to = list(to_where)
    for there in trains:
        at += there
        to.append((at if there else 0, 0))
    to += [*((made + i, 0) for i in range(3)), *((i + made + 1, at) for i, at in where)]
    return [
        Case("attention", done, [*qkv, *extra], words, ((0, 0), (1, 0), *where, *last(2))),
        Case("attention_backward", [*back, *to_more], [grad, out, sums, *qkv, *extra], words, (*to, *last(made + 3))),
    ]


ATTENTION = {
    "attention": lambda pick: attentions(pick, False),
    "packed": lambda pick: attentions(pick, True),
    "attention with scores": lambda pick: attentions(pick, False, plain=False),
    "packed with scores": lambda pick: attentions(pick, True, plain=False),
}
