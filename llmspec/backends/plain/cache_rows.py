"""Storing new keys and values in a KV cache, each row at a place of its own: a kernel written in tinygrad's UOps.

As tensor operations this would read and write the whole cache for every token; a bound variable in place of a tensor of
places would give all rows one.

Shape letters: C rows of the cache, S places in a row, B rows of a batch, T tokens, N heads side by side, K key/value
heads, d head width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tinygrad import Tensor, UOp, dtypes

from llmspec.backends.tinygrad_private import KernelInfo
from llmspec.parts.ops import Kept

BLOCK, LEVELS, LARGEST = 32, 127, 65504.0
"""Numbers that share a scale in 8 bits, the largest of those, and the largest half."""


def halves(x: Tensor) -> Tensor:
    """x as float16, the largest of it for what is larger."""
    return x.clip(-LARGEST, LARGEST).cast(dtypes.float16)


def eight_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 like x (…, d), scales (…, d / 32) float16) whose products are x, rounded: the form q8_0 of ggml, but for
    the scale, which is rounded first."""
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    scales = halves(blocks.abs().max(-1) / LEVELS)
    scale = scales.cast(dtypes.float32).unsqueeze(-1)
    values = (blocks * (scale > 0).where(1 / scale, 0.0)).round().clip(-LEVELS, LEVELS)
    return values.cast(dtypes.int8).reshape(x.shape), scales


def whole(kept: Kept) -> Tensor:
    """What a cache holds as float32."""
    values = kept.values.cast(dtypes.float32)
    if kept.scales is None:
        return values
    scales = kept.scales.cast(dtypes.float32).unsqueeze(-1)
    return (values.reshape(*scales.shape[:-1], BLOCK) * scales).reshape(values.shape)


def store_keys_values(
    k_CSKd: Tensor, v_CSKd: Tensor, qkv_BTNd: Tensor, heads: int, places_B3: Tensor
) -> tuple[Tensor, Tensor]:
    """Both caches as they are after the call; they are written in place.

    `qkv` has queries' `heads`, keys and values side by side. `places` (B, 3) int32 are, of each row of the batch, a row
    of the cache, the first place there, and how many of its tokens are stored: none for 0.
    """
    (rows, tokens, wide, width), (held, span) = map(_sizes, (qkv_BTNd.shape, k_CSKd.shape[:2]))
    kv = _sizes(k_CSKd.shape)[2]
    kernel = _kernel(rows, tokens, held, span, kv * width, wide * width, heads * width)
    flat = [x.reshape(-1) for x in (k_CSKd, v_CSKd, qkv_BTNd, places_B3)]
    k, v, *_ = Tensor.custom_kernel(*flat, fxn=kernel)
    return k.reshape(k_CSKd.shape), v.reshape(v_CSKd.shape)


def store(k: Kept, v: Kept, qkv_BTNd: Tensor, heads: int, places_B3: Tensor) -> tuple[Kept, Kept]:
    """The same for caches that may round: as `store_keys_values` for each tensor of theirs."""
    if k.scales is None or v.scales is None:
        new = qkv_BTNd if k.values.dtype == qkv_BTNd.dtype else halves(qkv_BTNd)
        k_values, v_values = store_keys_values(k.values, v.values, new, heads, places_B3)
        return Kept(k_values), Kept(v_values)
    values, scales = eight_bits(qkv_BTNd)
    stored = store_keys_values(k.values, v.values, values, heads, places_B3)
    beside = store_keys_values(k.scales, v.scales, scales, heads, places_B3)
    return Kept(stored[0], beside[0]), Kept(stored[1], beside[1])


def _sizes(shape: tuple[object, ...]) -> tuple[int, ...]:
    if not all(isinstance(n, int) for n in shape):
        raise TypeError(f"a cache has sizes that are known, not {shape}")
    return tuple(int(n) for n in shape)  # type: ignore[call-overload]


@functools.cache
def _kernel(
    rows: int, tokens: int, held: int, span: int, numbers: int, stride: int, keys: int
) -> Callable[[UOp, UOp, UOp, UOp], UOp]:
    """A kernel for these sizes; one object for each, since graphs are cached by identity.

    `numbers` are stored of each token, for keys and for values; a token's are `stride` apart, its keys `keys` in.
    """

    def kernel(k: UOp, v: UOp, qkv: UOp, places: UOp) -> UOp:
        row, token, number = UOp.range(rows, 0), UOp.range(tokens, 1), UOp.range(numbers, 2)
        to, first, count = (places[row * 3 + i].load() for i in range(3))
        at = (to * span + first + token) * numbers + number
        place = ((token < count) & (at >= 0) & (at < held * span * numbers)).where(at, UOp.invalid())
        new = (row * tokens + token) * stride + keys + number
        stored = [x.index(place).store(qkv[new + i * numbers].load()) for i, x in enumerate((k, v))]
        return UOp.group(*stored).end(row, token, number).sink(arg=KernelInfo(f"store_{rows}_{tokens}_{numbers}"))

    return kernel
