"""Drawn calls of the C functions of a KV cache that rounds, as tests/kernel_cases.py has them for other functions.

B batch, T tokens, S places of a row, H query heads, G key heads, d head width.
"""

from __future__ import annotations

import numpy as np
from attention_cases import Terms, drawn_ranges, forward, more_at, near_and_sinks
from kernel_cases import SEEDS
from kernels import EPS, Array, Case, Output, Pick, numbers

HALF, BYTES, BLOCK = 1, 2, 32
LARGEST = np.float32(65504.0)


def halves(x: Array) -> Array:
    return np.clip(x, -LARGEST, LARGEST).astype(np.float16)


def eight_bits(x: Array) -> tuple[Array, Array]:
    """(int8, float16 scales) of float32: the scale is rounded first, then what is divided by it."""
    blocks = x.reshape(-1, BLOCK)
    scales = halves(np.abs(blocks).max(-1) / np.float32(127))
    wide = scales.astype(np.float32)[:, None]
    inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide > 0)
    return np.clip(np.rint(blocks * inverse), -127, 127).astype(np.int8).reshape(x.shape), scales


def whole(values: Array, scales: Array | None) -> Array:
    if scales is None:
        return values.astype(np.float32)
    wide = values.reshape(-1, BLOCK).astype(np.float32) * scales.astype(np.float32).reshape(-1, 1)
    return wide.reshape(values.shape)


def rounded(kind: int, x: Array) -> tuple[Array, Array | None]:
    return (halves(x), None) if kind == HALF else eight_bits(x)


def kept(pick: Pick, kind: int) -> list[Case]:
    """Tokens into a cache, and rows of it as float32."""
    seed, spread = pick(SEEDS), pick((1e-9, 1e-6, 1.0, 300.0, 1e6))
    b, t, s, heads, g = pick((1, 3)), pick((1, 2, 7)), pick((7, 9)), pick((0, 2)), pick((1, 2))
    d = pick((32, 64)) if kind == BYTES else pick((1, 5, 32, 63))
    qkv, held = numbers(seed, b, t, heads + 2 * g, d, spread=spread), pick((b, b + 2))
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, t + 1, b)
    places = np.stack([rng.permutation(held)[:b], [int(rng.integers(0, s - n + 1)) for n in counts], counts], axis=-1)
    starts, exact = list[Array](), list[Array]()
    for which in range(2):
        values, scales = rounded(kind, numbers(seed + 1 + which, held, s, g, d))
        starts += [values] if scales is None else [values, scales.reshape(held, s, g, -1)]
        new_values, new_scales = rounded(kind, np.ascontiguousarray(qkv[:, :, heads + which * g :][:, :, :g]))
        after = [a.copy() for a in starts[-1 if scales is None else -2 :]]
        for row, (to, first, n) in enumerate(places):
            after[0][to, first : first + n] = new_values[row, :n]
            if new_scales is not None:
                after[1][to, first : first + n] = new_scales.reshape(b, t, g, -1)[row, :n]
        exact += after
    order = [0, 1] if kind == HALF else [0, 2, 1, 3]
    outputs = [Output(exact[i], 0.0, starts[i]) for i in order]
    words = [b, t, held, s, g * d, (heads + 2 * g) * d, heads * d]
    stored = Case("keep_halves" if kind == HALF else "keep_bytes", outputs, [qkv, places.astype(np.int32)], words)
    ids = rng.integers(0, held, pick((1, 2, 5))).astype(np.int32)
    values, scales = exact[0], exact[1] if kind == BYTES else exact[0]
    read = whole(values, scales if kind == BYTES else None)[ids]
    taken = Case("take_kept", [Output(read, 0.0)], [values, scales, ids], [len(ids), s * g * d, held, kind])
    return [stored, taken]


def attended(pick: Pick) -> list[Case]:
    """Attention of one query a sequence to keys and values as a cache holds them."""
    seed, kind, b, g, share = pick(SEEDS), pick((HALF, BYTES)), pick((1, 2)), pick((1, 2)), pick((1, 3))
    s, d = pick((2, 13, 70)), pick((32, 64)) if kind == BYTES else pick((1, 8, 17, 64))
    bs, bb, h = pick((1, b)), pick((0, 1, b)), g * share
    q, k, v = (numbers(seed + i, b, n, heads, d) for i, (n, heads) in enumerate(((1, h), (s, g), (s, g))))
    ranges = drawn_ranges(pick, seed, bs, 1, s)
    bias = numbers(seed + 9, bb, h, 1, s, spread=3.0) if bb else None
    terms = Terms(float(np.float32(1) / np.sqrt(np.float32(d))), pick((0.0, 5.0)), bias)
    terms, near, words = near_and_sinks(pick, seed, (b, 1, s, h), terms)
    (k, k_scales), (v, v_scales) = rounded(kind, k), rounded(kind, v)
    (out, _) = forward(q, whole(k, k_scales), whole(v, v_scales), ranges, terms)
    out = Output(out.exact, out.room + 64 * EPS)
    more = {"bias": [bias] if bb else [], "near": near[:1], "queries": near[1:2], "keys": near[2:]}
    more |= {"sinks": [] if terms.sinks is None else [terms.sinks], "drop_key": []}
    scales = [k if k_scales is None else k_scales, v if v_scales is None else v_scales]
    given = [q, k, v, *scales, ranges, *(array for some in more.values() for array in some)]
    words = [b, 1, s, h, g, d, bs, bb, 0, *words, h * d, g * d, 0, terms.scale, terms.softcap, 1.0, kind]
    where = (*((i, 0) for i in range(6)), *more_at(6, list(more.values())))
    return [Case("attention_kept", [out], given, words, where)]


KEPT = {
    "halves": lambda pick: kept(pick, HALF),
    "bytes": lambda pick: kept(pick, BYTES),
    "attention to kept": attended,
}
