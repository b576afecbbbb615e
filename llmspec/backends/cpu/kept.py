"""Keys and values of a KV cache that rounds them, in C: stored, and read again as float32.

Shape letters: S places of a row, B rows of a batch, T tokens, N heads side by side, K key/value heads, d head width.
"""

from __future__ import annotations

import math

from tinygrad import Tensor, dtypes

from llmspec.backends.cpu.native import call, shape_of
from llmspec.parts.ops import Kept

HALF, BYTES = 1, 2
"""What a cache holds, as c/kept.h numbers it."""


def rounds(kept: Kept) -> bool:
    """Whether it holds anything but float32."""
    return bool(kept.values.dtype != dtypes.float32)


def kind(kept: Kept) -> int:
    """The number of what it holds."""
    return HALF if kept.scales is None else BYTES


def store(address: Tensor, k: Kept, v: Kept, qkv_BTNd: Tensor, heads: int, places_B3: Tensor) -> tuple[Kept, Kept]:
    """The caches with new keys and values in them, which stand behind the queries' `heads`."""
    (b, t, n, d), (held, span, kv) = shape_of(qkv_BTNd), shape_of(k.values)[:3]
    numbers = (b, t, held, span, kv * d, n * d, heads * d)
    tensors = [k.values, v.values, *(s for s in (k.scales, v.scales) if s is not None)]
    name = "keep_halves" if kind(k) == HALF else "keep_bytes"
    done = call(name, tuple(tensors), (qkv_BTNd, places_B3), numbers, address)
    made = [new.reshape(old.shape) for new, old in zip(done, tensors, strict=True)]
    return Kept(*made[::2]), Kept(*made[1::2])


def taken(address: Tensor, kept: Kept, rows_B: Tensor) -> Tensor:
    """Those rows of a cache (B, S, K, d) float32."""
    held, *rest = shape_of(kept.values)
    count, numbers = shape_of(rows_B)[0], math.prod(rest)
    scales = kept.values if kept.scales is None else kept.scales
    given = (kept.values, scales, rows_B.cast(dtypes.int32))
    done = call("take_kept", (count * numbers,), given, (count, numbers, held, kind(kept)), address)
    return done[0].reshape(count, *rest)
