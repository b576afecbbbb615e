"""Drawn calls of linear layers whose weights have 16 bits a number, and the same calls with weights of float32."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from kernel_cases import SEEDS, product_of
from kernels import Array, Case, Output, Pick, numbers

ROWS = (1, 2, 3, 4, 5, 7, 14, 33, 65, 257)
INPUTS = (1, 2, 7, 16, 17, 63, 64, 65, 385, 1024)
OUTPUTS = (1, 2, 13, 15, 17, 32, 57, 130)
TYPES = {"f16": 1, "bf16": 30}
"""By ggml's numbers."""


class Matrix(NamedTuple):
    """Drawn weights: what lies in memory, and the float32 numbers that it stands for."""

    bits: Array
    values: Array


def matrix(name: str, seed: int, rows: int, k: int) -> Matrix:
    """Weights of many sizes, denormal halves, zeros and large ones among them."""
    spread = np.exp2(np.random.default_rng([seed, rows, k]).integers(-24, 3, (rows, k))).astype(np.float32)
    x = numbers(seed, rows, k) * spread
    x[:, :1] = np.float32(6e-8)  # the smallest half above 0
    x[-1:, -1:] = np.float32(0)
    if name == "f16":
        half = x.astype(np.float16)
        return Matrix(half.view(np.uint16), half.astype(np.float32))
    upper = (x.view(np.uint32) >> 16).astype(np.uint16)
    return Matrix(upper, (upper.astype(np.uint32) << 16).view(np.float32))


def pairs(pick: Pick) -> tuple[Case, Case]:
    """One to three layers side by side, of 16 bits and of float32: the same numbers."""
    seed, n, i, biased = pick(SEEDS), pick(ROWS), pick(INPUTS), pick((0, 1))
    count = pick((1, 1, 2, 3))
    wide = [pick(OUTPUTS) if j < count else 0 for j in range(3)]
    kinds = [pick([*TYPES]) for _ in range(count)]
    x, made = numbers(seed, n, i), [matrix(t, seed + 1 + j, wide[j], i) for j, t in enumerate(kinds)]
    bias = [numbers(seed + 5 + j, o) for j, o in enumerate(wide) if o]
    three = lambda items: [*items, *[items[0]] * (3 - len(items))]
    exact = product_of(
        x, np.concatenate([m.values for m in made]).T, np.concatenate(bias).astype(np.float64) if biased else 0.0
    )
    types = [TYPES[t] for t in three(kinds)]
    sequences = pick([0, *(s for s in (n, 5, 2, 1) if n % s == 0)])
    rows = [sequences, n // sequences] if sequences else [0, n]
    given = [x, *three([m.bits for m in made]), *three(bias)]
    half = Case("half_linear", [exact], given, [*rows, i, *wide, *types, biased])
    given = [x, *three([m.values for m in made]), *three(bias)]
    if sequences:
        return half, Case("linear_by_sequence", [exact], given, [*rows, i, *wide, biased])
    return half, Case("linear", [exact], given, [n, i, *wide, biased])


def linears(pick: Pick) -> list[Case]:
    """One to three layers side by side."""
    return [pairs(pick)[0]]


def rows(pick: Pick) -> list[Case]:
    """Rows of a table as numbers."""
    seed, name, n, v, k = pick(SEEDS), pick([*TYPES]), pick(ROWS), pick((1, 2, 17)), pick(INPUTS)
    made, ids = matrix(name, seed, v, k), np.random.default_rng(seed).integers(0, v, n).astype(np.int32)
    exact = Output(made.values[ids].astype(np.float64))
    return [Case("quantised_rows", [exact], [made.bits, ids], [n, k, v, TYPES[name]])]


HALVES = {"half linear": linears, "half rows": rows}
