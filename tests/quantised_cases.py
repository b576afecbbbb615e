"""Drawn calls of products whose weights stay quantised, and float64's results of what the weights stand for.

The arrangement in memory is written down a second time here, in numpy: from numbers, scales and factors, not from a
file's blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import half_cases
import numpy as np
from kernel_cases import SEEDS
from kernels import EPS, Array, Case, Output, Pick, numbers

ROWS = (1, 2, 3, 4, 5, 7, 11, 12, 13, 19, 40, 257)
OUTPUTS = (1, 2, 15, 16, 17, 31, 33, 100)
SMALLEST = 1e-30
"""A block of activations whose numbers are all smaller counts as 0."""


class Type(NamedTuple):
    """A type of weights: ggml's number, largest number + 1, what is taken off it, and how it is scaled."""

    number: int
    numbers: int
    offset: int
    minimum: bool = False
    factors: int = 0
    """Columns of one 8-bit factor, or 0 where there are none."""


TYPES = {
    "q4_0": Type(2, 16, 8),
    "q4_1": Type(3, 16, 0, True),
    "q5_0": Type(6, 32, 16),
    "q5_1": Type(7, 32, 0, True),
    "q8_0": Type(8, 256, 128),
    "q4_k": Type(12, 16, 0, True, 32),
    "q5_k": Type(13, 32, 0, True, 32),
    "q6_k": Type(14, 64, 32, False, 16),
}


class Matrix(NamedTuple):
    """Drawn weights (rows, k): packed bytes, and what they stand for in float64."""

    packed: Array
    values: Array


def matrix(kind: Type, seed: int, rows: int, k: int) -> Matrix:
    """Weights of a type, rows beyond the last filled with zeros."""
    rng, padded, whole = np.random.default_rng([seed, rows, k]), -(-rows // 16) * 16, 256 if kind.factors else 32
    q = rng.integers(0, kind.numbers, (padded, k), np.uint8)
    half = lambda: (rng.standard_normal((padded, k // whole)) * 0.05).astype(np.float16)
    scale, minimum = half(), half() if kind.minimum else np.zeros((padded, k // whole), np.float16)
    scale[0, :1] = np.float16(6e-8)  # the smallest above 0
    columns = kind.factors or 32
    factor = rng.integers(*((-128, 128) if columns == 16 else (0, 64)), (padded, k // columns))
    lower = rng.integers(0, 64, (padded, k // columns))
    for array in (q, scale, minimum):
        array[rows:] = 0
    factor, lower = (f * (bool(kind.factors)) + (not kind.factors) for f in (factor, lower))
    wide = lambda x, times: np.repeat(x.astype(np.float64), times, axis=1)
    sign = -1.0 if kind.factors else 1.0
    values = wide(scale, whole) * wide(factor, columns) * (q.astype(np.float64) - kind.offset)
    values += sign * wide(minimum, whole) * wide(lower, columns)
    return Matrix(_packed(kind, q, scale, minimum, factor, lower), values[:rows])


def _packed(kind: Type, q: Array, scale: Array, minimum: Array, factor: Array, lower: Array) -> Array:
    padded, k = q.shape
    groups, blocks = padded // 16, k // 32
    if kind.numbers == 256:  # stands there with a sign
        q = q ^ 0x80
    lines = q.reshape(groups, 16, blocks, 8, 4).transpose(0, 2, 3, 1, 4)
    if kind.numbers < 256:
        low, high = lines & 15, lines >> 4
        planes = [low[:, :, :4] | low[:, :, 4:] << 4]
        places = np.arange(8, dtype=np.uint8).reshape(8, 1, 1)
        if kind.numbers == 32:
            planes.append((high << places).sum(2, dtype=np.uint8)[:, :, None])
        if kind.numbers == 64:
            halves = (high << places % 4 * 2).reshape(groups, blocks, 2, 4, 16, 4)
            planes.append(halves.sum(3, dtype=np.uint8))
        lines = np.concatenate(planes, axis=2)
    by_row = lambda x: (
        x.view(np.uint8).reshape(groups, 16, -1, x.itemsize).transpose(0, 2, 1, 3).reshape(groups, -1, 16 * x.itemsize)
    )
    parts = [by_row(scale), *([by_row(minimum)] if kind.minimum else [])]
    if kind.factors:
        bytes_ = [by_row(f.astype(np.uint8)) for f in (factor, *([lower] if kind.minimum else []))]
        together = np.concatenate(bytes_, axis=2).reshape(groups, k // 256, -1)
        parts.append(together)
    scales = np.concatenate(parts, axis=2).reshape(groups, -1)
    made = np.concatenate([lines.reshape(groups, -1), scales], axis=1)
    return np.pad(made, ((0, 0), (0, -made.shape[1] % 64))).reshape(-1)


def rounded(x: Array) -> Array:
    """Activations as products read them: whole numbers -127 … 127 times a scale for each 32, in float64."""
    blocks = x.reshape(len(x), -1, 32)
    most = np.abs(blocks).max(-1, keepdims=True)
    some = most > SMALLEST
    whole = np.rint(blocks * np.where(some, np.float32(127) / np.where(some, most, np.float32(1)), np.float32(0)))
    return (whole.astype(np.float64) * np.where(some, most / np.float32(127), np.float32(0))).reshape(x.shape)


def rounding_bound(x: Array, values: Array) -> Array:
    """How far products of rounded activations may be from those of x: each is off by half a step of its block."""
    blocks = np.abs(x.astype(np.float64)).reshape(len(x), -1, 32)
    half_steps = np.repeat(blocks.max(-1) / 254 * (1 + 8 * EPS) + SMALLEST, 32, axis=1)
    return half_steps @ np.abs(values).T


def sums_bound(x: Array, values: Array) -> Array:
    """How far sums of float32 may be off: three roundings of a block's sum and one of each running total. Parts of a
    block's sum are as large as its largest weight, where an offset or a minimum takes most of it away."""
    most = np.repeat(np.abs(values).reshape(len(values), -1, 32).max(-1), 32, axis=1)
    return EPS * (x.shape[1] / 32 + 8) * 4 * (np.abs(x) @ most.T)


def linears(pick: Pick) -> list[Case]:
    """One to three layers side by side, each of a type of its own."""
    seed, n, biased = pick(SEEDS), pick(ROWS), pick((0, 1))
    kinds = [TYPES[pick([*TYPES])] for _ in range(pick((1, 1, 2, 3)))]
    k = pick((256, 512, 768)) if any(t.factors for t in kinds) else pick((32, 64, 96, 160, 544))
    wide = [pick(OUTPUTS) for _ in kinds] + [0] * (3 - len(kinds))
    x = numbers(seed, n, k, spread=pick((1e-3, 1.0, 1e3)))
    x[:, :32] *= pick((0.0, 1.0, 100.0))
    made = [matrix(t, seed + j, o, k) for j, (t, o) in enumerate(zip(kinds, wide, strict=False))]
    bias = [numbers(seed + 5 + j, o) for j, o in enumerate(wide) if o]
    values = np.concatenate([m.values for m in made])
    read, more = rounded(x), np.concatenate(bias).astype(np.float64) if biased else np.zeros(len(values))
    exact = Output(read @ values.T + more, sums_bound(read, values) + 2 * EPS * np.abs(more) + 1e-30)
    three = lambda items: [*items, *[items[0]] * (3 - len(items))]
    types = [t.number for t in three(kinds)]
    given = [x, *three([m.packed for m in made]), *three(bias)]
    return [Case("quantised_linear", [exact], given, [n, k, *wide, *types, biased])]


def rows(pick: Pick) -> list[Case]:
    """Rows of a matrix as numbers."""
    seed, kind, n, v = pick(SEEDS), TYPES[pick([*TYPES])], pick(ROWS), pick(OUTPUTS)
    k = pick((256, 512)) if kind.factors else pick((32, 96, 160))
    made = matrix(kind, seed, v, k)
    ids = np.random.default_rng(seed).integers(0, v, n).astype(np.int32)
    exact = made.values[ids]
    size = np.repeat(np.abs(made.values).reshape(v, -1, 32).max(-1), 32, axis=1)[ids]
    return [
        Case(
            "quantised_rows",
            [Output(exact, 4 * EPS * (np.abs(exact) + 32 * size))],
            [made.packed, ids],
            [n, k, v, kind.number],
        )
    ]


QUANTISED = {"quantised linear": linears, "quantised rows": rows, **half_cases.HALVES}
