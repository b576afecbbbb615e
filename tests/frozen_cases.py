"""Drawn calls of products with weights that training leaves as they are, float32 or quantised; results of float64."""

from __future__ import annotations

import half_cases
import numpy as np
import reference
from kernel_cases import SEEDS, product_of
from kernels import EPS, Array, Case, Output, Pick, numbers
from quantised_cases import TYPES, matrix

ROWS = (1, 2, 5, 14, 40, 113)
OUTPUTS = (1, 15, 16, 17, 33, 100)
KINDS = ["f32", *half_cases.TYPES, *TYPES]


def weights(pick: Pick, seed: int, kind: str, rows: int, k: int) -> tuple[Array, Array, Array]:
    """(what lies in memory, the numbers that it stands for, how far float32 may be off them) of a matrix (rows, k)."""
    if kind == "f32":
        made = numbers(seed, rows, k)
        return made, made.astype(np.float64), np.zeros((rows, k))
    if kind in half_cases.TYPES:
        half = half_cases.matrix(kind, seed, rows, k)
        return half.bits, half.values.astype(np.float64), np.zeros((rows, k))
    packed = matrix(TYPES[kind], seed, rows, k)
    size = np.repeat(np.abs(packed.values).reshape(rows, -1, 32).max(-1), 32, axis=1)
    return packed.packed, packed.values, 4 * EPS * (np.abs(packed.values) + 32 * size)


def number(kind: str) -> int:
    return 0 if kind == "f32" else half_cases.TYPES.get(kind) or TYPES[kind].number


def super_blocks(kind: str) -> bool:
    """Whether rows are multiples of 256."""
    return kind in TYPES and bool(TYPES[kind].factors)


def rough(a: Array, b: Array, off: Array, extra: Array | float = 0.0) -> Output:
    """a @ b where numbers of b may be off."""
    found = product_of(a, b, extra)
    return Output(found.exact, found.room + np.abs(a.astype(np.float64)) @ off)


def linears(pick: Pick) -> list[Case]:
    """One to three layers side by side, and the gradient of their input."""
    seed, n, biased = pick(SEEDS), pick(ROWS), pick((0, 1))
    kinds = [pick(KINDS) for _ in range(pick((1, 2, 3)))]
    k = pick((256, 512)) if any(super_blocks(t) for t in kinds) else pick((32, 96, 416))
    wide = [pick(OUTPUTS) for _ in kinds] + [0] * (3 - len(kinds))
    x, g = numbers(seed, n, k), numbers(seed + 1, n, sum(wide))
    made = [weights(pick, seed + 2 + j, t, o, k) for j, (t, o) in enumerate(zip(kinds, wide, strict=False))]
    bias = [numbers(seed + 5 + j, o) for j, o in enumerate(wide) if o]
    values, off = np.concatenate([m[1] for m in made]), np.concatenate([m[2] for m in made])
    more = np.concatenate(bias).astype(np.float64) if biased else 0.0
    three = lambda items: [*items, *[items[0]] * (3 - len(items))]
    own, types = three([m[0] for m in made]), [number(t) for t in three(kinds)]
    sizes = [n, k, *wide, *types]
    return [
        Case("frozen_linear", [rough(x, values.T, off.T, more)], [x, *own, *three(bias)], [*sizes, biased]),
        Case("frozen_linear_backward", [rough(g, values, off)], [g, *own], sizes),
    ]


def losses(pick: Pick) -> list[Case]:
    """Head and loss; what happens to logits is linear_cross_entropy's."""
    seed, n, kind, smoothing = pick(SEEDS), pick(ROWS), pick(KINDS), pick((0.0, 0.25))
    d, v = 256 if super_blocks(kind) else pick((32, 96)), pick((2, 17, 40, 200))
    memory, values, off = weights(pick, seed, kind, v, d)
    hidden, g = numbers(seed + 1, n, d) / np.float32(4), numbers(seed + 2, n)
    targets = np.random.default_rng(seed).integers(0, v, n).astype(np.int32)
    logits = rough(hidden, values.T, off.T)
    slack, x = 2 * logits.room.max(-1, keepdims=True), logits.exact
    low = x - x.max(-1, keepdims=True)
    reach = np.abs(low[np.arange(n), targets]) + smoothing * v * np.abs(low).mean(-1)
    loss = Output(reference.cross_entropy(x, targets, smoothing), 2 * slack[:, 0] + EPS * (2 * v + 16 + 4 * reach))
    p, wanted = reference.softmax(x), np.full((n, v), smoothing / v)
    wanted[np.arange(n), targets] += 1 - smoothing
    slopes = Output(p - wanted, p * (np.expm1(2 * slack) + EPS * (v + 120)) + 4 * EPS * (wanted + p) + 1e-36)
    held = slopes.exact.astype(np.float32)
    back = rough(held, values, off)
    scaled = Output(back.exact * g[:, None], back.room * np.abs(g)[:, None] + EPS * np.abs(back.exact * g[:, None]))
    sizes = [n, d, v, number(kind)]
    return [
        Case("frozen_cross_entropy", [loss, slopes], [hidden, memory, targets], [*sizes, smoothing, 0.0]),
        Case("frozen_cross_entropy_backward", [scaled], [g, held, memory], sizes),
    ]


FROZEN = {"frozen linear": linears, "frozen loss": losses}
