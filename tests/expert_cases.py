"""Drawn calls of the C functions of a mixture of experts, with their exact results and the errors that rounding allows.

N tokens, E experts, k of them for each token, R = N · k rows, I inputs, O outputs, D width.
"""

from __future__ import annotations

import itertools

import half_cases
import numpy as np
import quantised_cases
import reference
from kernel_cases import COUNTS, SEEDS, TINY, WIDTHS, product_of
from kernels import EPS, Array, Case, Output, Pick, numbers


def integers(values: Array) -> Output:
    """An output of int32, which has no room."""
    return Output(values.astype(np.int32), 0, np.full(values.shape, 7, np.int32))


def laid_out(chosen: Array, e: int) -> tuple[Array, Array, Array]:
    """(row of each choice, choice of each row, first row of each expert and the end) of chosen experts (R,)."""
    choices = np.argsort(chosen, kind="stable")
    return np.argsort(choices), choices, np.searchsorted(chosen[choices], np.arange(e + 1))


def drawn(pick: Pick) -> tuple[int, int, int, int, Array, Array]:
    """Seed, N, E, k, and logits (N, E) and corrections (E,) in steps, so that no rounding changes a choice."""
    seed, n, e = pick(SEEDS), pick(COUNTS), pick((2, 3, 8, 33))
    rng = np.random.default_rng([seed, 3])
    logits = rng.permuted(np.tile(np.arange(e) / 4, (n, 1)), axis=1) - pick((0, 3))
    return seed, n, e, min(e, pick((1, 2, 4))), logits.astype(np.float32), (2 * rng.permutation(e)).astype(np.float32)


def routers(pick: Pick) -> list[Case]:
    """Softmax and sigmoid, weights that sum to one and others, with a correction and without, and the gradient."""
    seed, n, e, k, logits, correction = drawn(pick)
    by_sigmoid, normalise, corrected = pick((0, 1)), pick((0, 1)), pick((0, 1))
    scale = float(np.float32(pick((1.0, 1.7))))
    x = logits.astype(np.float64)
    scores = reference.sigmoid(x) if by_sigmoid else reference.softmax(x)
    chosen = np.argsort(-(scores + corrected * correction), -1, kind="stable")[:, :k]
    taken = np.take_along_axis(scores, chosen, -1)
    total = taken.sum(-1, keepdims=True) + 1e-20 if normalise else np.ones((n, 1))
    out = np.concatenate([scale * taken / total, scores], -1)
    places, choices, starts = laid_out(chosen.reshape(-1), e)
    tokens = np.bincount(chosen.reshape(-1), minlength=e)
    written = [integers(v) for v in (chosen.reshape(-1), tokens, places, choices, starts)]
    room = EPS * (8 * e + 64) * out + TINY
    sizes: list[int | float] = [n, e, k, by_sigmoid, normalise]
    forward = Case("router", [Output(out, room), *written], [logits, correction], [*sizes, corrected, scale])
    held, g = out.astype(np.float32), numbers(seed + 1, n, k + e)
    s, g64 = held[:, k:].astype(np.float64), g.astype(np.float64)
    of_chosen, size = g64[:, :k], np.abs(g64[:, :k])
    own = np.take_along_axis(s, chosen, -1)
    if normalise:
        total = own.sum(-1, keepdims=True) + 1e-20
        mean, size = (
            (of_chosen * own / total).sum(-1, keepdims=True),
            (size + (size * own / total).sum(-1, keepdims=True)) / total,
        )
        of_chosen = (of_chosen - mean) / total
    to_scores, sizes_of = g64[:, k:].copy(), np.abs(g64[:, k:])
    np.put_along_axis(to_scores, chosen, np.take_along_axis(to_scores, chosen, -1) + scale * of_chosen, -1)
    np.put_along_axis(sizes_of, chosen, np.take_along_axis(sizes_of, chosen, -1) + scale * size, -1)
    if by_sigmoid:
        exact, whole = to_scores * s * (1 - s), sizes_of * s
    else:
        exact = s * (to_scores - (to_scores * s).sum(-1, keepdims=True))
        whole = s * (sizes_of + (sizes_of * s).sum(-1, keepdims=True))
    back = Case(
        "router_backward",
        [Output(exact, EPS * (4 * e + 64) * whole + TINY)],
        [g, held, chosen.reshape(-1).astype(np.int32)],
        [*sizes, scale],
    )
    return [forward, back]


def moves(pick: Pick) -> list[Case]:
    """Tokens to the rows of their experts and back, and the gradients."""
    seed, n, e, k, logits, _ = drawn(pick)
    d = pick(WIDTHS)
    chosen = np.argsort(-logits, -1)[:, :k].reshape(-1)
    places, choices, _ = (v.astype(np.int32) for v in laid_out(chosen, e))
    x, g, rows, weights = (
        numbers(seed, n, d),
        numbers(seed + 1, n * k, d),
        numbers(seed + 2, n * k, d),
        numbers(seed + 3, n, k),
    )
    of_token = g[places].reshape(n, k, d).astype(np.float64)
    back = Output(of_token.sum(1), EPS * (k + 2) * np.abs(of_token).sum(1))
    own, each = rows[places].reshape(n, k, d).astype(np.float64), weights.astype(np.float64)[..., None]
    y = Output((own * each).sum(1), EPS * (k + 3) * np.abs(own * each).sum(1))
    gy = numbers(seed + 4, n, d)
    to_rows = (weights.reshape(-1, 1).astype(np.float64) * np.repeat(gy, k, 0))[choices]
    to_weights = product_of(own, gy[..., None])
    sizes: list[int | float] = [n, k, d]
    return [
        Case("dispatch", [Output(x[choices // k].astype(np.float64))], [x, choices], sizes),
        Case("dispatch_backward", [back], [g, places], sizes),
        Case("combine", [y], [rows, weights, places], sizes),
        Case(
            "combine_backward",
            [Output(to_rows, 2 * EPS * np.abs(to_rows)), Output(to_weights.exact[..., 0], to_weights.room[..., 0])],
            [gy, rows, weights, places, choices],
            sizes,
        ),
    ]


def grouped(pick: Pick) -> list[Case]:
    """One to three layers of each expert, some of which have no row, and their gradients."""
    seed, e, i, biased = pick(SEEDS), pick((2, 3, 5)), pick((1, 7, 17, 64, 65)), pick((0, 1))
    rows = np.random.default_rng([seed, 4]).choice([0, 1, 2, 5, 31, 33, 70, 300], e)
    rows[0] = max(1, rows[0])
    starts, r = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32), int(rows.sum())
    wide = [pick((1, 15, 17, 33)) if j < pick((1, 2, 3)) or not j else 0 for j in range(3)]
    x, g = numbers(seed, r, i), numbers(seed + 1, r, sum(wide))
    w = [numbers(seed + 2 + j, e, o, i) for j, o in enumerate(wide) if o]
    bias = [numbers(seed + 5 + j, e, o) for j, o in enumerate(wide) if o]
    three = lambda values: [values[sum(map(bool, wide[:j]))] if o else values[0] for j, o in enumerate(wide)]
    whole, more = np.concatenate(w, 1), np.concatenate(bias, 1).astype(np.float64) * biased
    spans, ends = list(itertools.pairwise(starts.tolist())), np.cumsum([0, *wide])
    joined = lambda found: Output(np.concatenate([f.exact for f in found]), np.concatenate([f.room for f in found]))
    stacked = lambda found: Output(np.stack([f.exact for f in found]), np.stack([f.room for f in found]))
    y = joined([product_of(x[a:b], whole[j].T, more[j]) for j, (a, b) in enumerate(spans)])
    to_x = joined([product_of(g[a:b], whole[j]) for j, (a, b) in enumerate(spans)])
    to_w = [
        stacked([product_of(g[a:b, c:d].T, x[a:b]) for a, b in spans]) if d > c else Output(None)
        for c, d in itertools.pairwise(ends)
    ]
    to_b = stacked([product_of(np.ones((1, b - a)), g[a:b]) for a, b in spans]) if biased else Output(None)
    sizes: list[int | float] = [r, e, i, *wide, biased]
    given = [x, *three(w), *three(bias), starts]
    flags = [[0, 0], [1, 0], [1, 1]]
    return [
        *(Case("grouped_linear", [y], given, [*sizes, *flag]) for flag in flags),
        Case("grouped_linear_backward", [to_x, *to_w, to_b], [g, x, *three(w), starts], sizes),
    ]


def held(pick: Pick) -> list[Case]:
    """One to three layers of each expert with weights as they lie in files; there is no gradient."""
    seed, e, biased = pick(SEEDS), pick((2, 3, 5)), pick((0, 1))
    rows = np.random.default_rng([seed, 4]).choice([0, 1, 2, 5, 33, 70, 300], e)
    rows[0] = max(1, rows[0])
    starts, r = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32), int(rows.sum())
    halves, count = pick((0, 1)), pick((1, 2, 3))
    known = half_cases.TYPES if halves else {t: q.number for t, q in quantised_cases.TYPES.items()}
    kinds = [pick([*known]) for _ in range(count)]
    wide = [pick((1, 15, 16, 33)) if j < count else 0 for j in range(3)]
    i = pick((1, 7, 17, 64, 65)) if halves else 256
    x = numbers(seed, r, i)
    made = [[_matrix(t, seed + j + 100 * n, wide[j], i) for n in range(e)] for j, t in enumerate(kinds)]
    bias = [numbers(seed + 5 + j, e, o) for j, o in enumerate(wide) if o]
    three = lambda values: [*values, *[values[0]] * (3 - len(values))]
    exact, room = np.zeros((r, sum(wide))), np.zeros((r, sum(wide)))
    for n, (a, b) in enumerate(itertools.pairwise(starts.tolist())):
        values = np.concatenate([layer[n][1] for layer in made]).astype(np.float64)
        more = np.concatenate([own[n] for own in bias]).astype(np.float64) * biased
        if halves:
            exact[a:b], room[a:b] = product_of(x[a:b], values.T, more)[:2]
        elif b > a:
            read = quantised_cases.rounded(x[a:b])
            exact[a:b] = read @ values.T + more
            room[a:b] = quantised_cases.sums_bound(read, values) + 2 * EPS * np.abs(more) + 1e-30
    types = [known[t] for t in three(kinds)]
    given = [x, *three([np.concatenate([m[0] for m in layer]) for layer in made]), *three(bias), starts]
    sizes: list[int | float] = [r, e, i, *wide, *types, biased]
    return [Case("grouped_held", [Output(exact, room)], given, [*sizes, *flag]) for flag in ([0, 0], [1, 0], [1, 1])]


def _matrix(kind: str, seed: int, rows: int, k: int) -> tuple[Array, Array]:
    """What lies in memory, and the numbers that it stands for."""
    if kind in half_cases.TYPES:
        return half_cases.matrix(kind, seed, rows, k)
    return quantised_cases.matrix(quantised_cases.TYPES[kind], seed, rows, k)


EXPERTS = {"router": routers, "moves": moves, "grouped": grouped, "grouped held": held}
