"""Numbers in ggml's K-quants: super-blocks of 256 whose sub-blocks have small integers for scales.

As in `core.blocks`, functions take and give whole blocks: (blocks, bytes) uint8 and (blocks, 256) float32.

q4_k, q5_k: 8 sub-blocks of 32; a number is d × scale × q - dmin × minimum, where scale and minimum are integers below
64. q6_k: 16 sub-blocks of 16; a number is d × scale × q, scale a signed byte, q in -32..31.

The layout is that of ggml's reference. Scales are searched for as there: of some steps near the plain one, that with
which a weighted square error is least after the best line through the codes is drawn (ggml-quants.c, `make_qkx2_quants`
and `make_qx_quants`; the code here is arrays over all blocks at once). Each sub-block is brought near 1 by a power of
two first, which is exact and keeps the search away from overflow and denormals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmspec.core.blocks import half, nibbles, scale

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

LARGEST = 63
"""The largest scale of a sub-block, and the largest minimum."""


def read_q4_k(blocks: Array) -> Array:
    """Bytes: d, dmin (halves), 12 of scales and minima, 128 of codes, two sub-blocks in 32 of them."""
    return _lines(blocks, _nibbles(blocks[:, 16:]))


def read_q5_k(blocks: Array) -> Array:
    """As q4_k, with 32 bytes of fifth bits before the codes: bit j of byte i belongs to number i of sub-block j."""
    import numpy as np

    places = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> places) & np.uint8(1)
    return _lines(blocks, _nibbles(blocks[:, 48:]) | (fifth << np.uint8(4)))


def read_q6_k(blocks: Array) -> Array:
    """Bytes: 128 of lower four bits, 64 of upper two, 16 signed scales, d (half)."""
    import numpy as np

    n = len(blocks)
    low = nibbles(blocks[:, :128].reshape(2 * n, 64)).reshape(n, 2, 4, 32)
    places = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(n, 2, 1, 32) >> places) & np.uint8(3)
    q = (low | (high << np.uint8(4))).reshape(n, 16, 16).astype(np.float32) - np.float32(32)
    steps = scale(blocks, 208) * blocks[:, 192:208].view(np.int8)
    found: Array = q * steps[:, :, None]
    return found.reshape(n, 256)


def write_q4_k(x: Array) -> Array:
    """As `read_q4_k` reads."""
    import numpy as np

    head, q = _fitted(x, most=15, first=-1.0, tries=21)
    return np.concatenate([head, _paired(q)], axis=1)


def write_q5_k(x: Array) -> Array:
    """As `read_q5_k` reads."""
    import numpy as np

    head, q = _fitted(x, most=31, first=-0.5, tries=16)
    fifth = np.packbits((q >> np.uint8(4)).transpose(0, 2, 1), axis=2, bitorder="little")[:, :, 0]
    return np.concatenate([head, fifth, _paired(q & np.uint8(15))], axis=1)


def write_q6_k(x: Array) -> Array:
    """As `read_q6_k` reads."""
    import numpy as np

    n = len(x)
    parts = x.reshape(n, 16, 16)
    steps = _signed_steps(np.ascontiguousarray(parts.reshape(n * 16, 16).T)).reshape(n, 16)
    extreme = np.take_along_axis(steps, np.abs(steps).argmax(axis=1)[:, None], axis=1)
    d = half(extreme / -128)
    scales = np.clip(np.rint(_over(steps, extreme) * -128), -128, 127).astype(np.int8)
    step = (scale(d, 0) * scales)[:, :, None]
    q = (np.clip(np.rint(_over(parts, step)), -32, 31) + 32).astype(np.uint8).reshape(n, 2, 4, 32)
    low = (q[:, :, :2] & np.uint8(15)) | (q[:, :, 2:] << np.uint8(4))
    places = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = np.bitwise_or.reduce((q >> np.uint8(4)) << places, axis=2)
    return np.concatenate([low.reshape(n, 128), high.reshape(n, 64), scales.view(np.uint8), d], axis=1)


def sub_scales(blocks: Array) -> tuple[Array, Array]:
    """Scales and minima of the sub-blocks of q4_k and q5_k: (blocks, 8) uint8 each, below 64.

    Of 12 bytes, the lower six bits of the first four are the scales of the first four sub-blocks, those of the next
    four their minima; the last four hold the lower four bits of scale and minimum of the others, whose upper two bits
    are the upper two of the first eight bytes.
    """
    import numpy as np

    a, b, c = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    six, upper = np.uint8(63), np.uint8(0x30)
    scales = np.concatenate([a & six, (c & np.uint8(15)) | ((a >> np.uint8(2)) & upper)], axis=1)
    return scales, np.concatenate([b & six, (c >> np.uint8(4)) | ((b >> np.uint8(2)) & upper)], axis=1)


def _lines(blocks: Array, q: Array) -> Array:
    """(blocks, 8, 32) codes as numbers, by the scales that stand at the blocks' beginning."""
    scales, minima = sub_scales(blocks)
    steps, least = scale(blocks, 0) * scales, scale(blocks, 2) * minima
    found: Array = q * steps[:, :, None] - least[:, :, None]
    return found.reshape(len(q), 256)


def _nibbles(packed: Array) -> Array:
    """(blocks, 128) bytes -> (blocks, 8, 32) numbers below 16: of 32 bytes the low nibbles, then the high ones."""
    return nibbles(packed.reshape(-1, 32)).reshape(len(packed), 8, 32)


def _paired(q: Array) -> Array:
    """What `_nibbles` takes apart."""
    import numpy as np

    found: Array = q[:, 0::2] | (q[:, 1::2] << np.uint8(4))
    return found.reshape(len(q), 128)


def _fitted(x: Array, most: int, first: float, tries: int) -> tuple[Array, Array]:
    """(blocks, 256) numbers as the first 16 bytes of their blocks, and (blocks, 8, 32) codes up to `most`."""
    import numpy as np

    n = len(x)
    parts = x.reshape(n, 8, 32)
    steps, depths = (
        one.reshape(n, 8) for one in _best_lines(np.ascontiguousarray(x.reshape(n * 8, 32).T), most, first, tries)
    )
    heads, found = [], []
    for wanted in (steps, depths):
        top = wanted.max(axis=1, keepdims=True)
        heads.append(half(top / LARGEST))
        found.append(np.minimum(np.rint(_over(wanted, top) * LARGEST), LARGEST).astype(np.uint8))
    scales, minima = found
    packed = [one[:, :4] | ((one[:, 4:] & np.uint8(0x30)) << np.uint8(2)) for one in found]
    packed.append((scales[:, 4:] & np.uint8(15)) | (minima[:, 4:] << np.uint8(4)))
    step, depth = (scale(h, 0) * f for h, f in zip(heads, found, strict=True))
    q = np.clip(np.rint(_over(parts + depth[:, :, None], step[:, :, None])), 0, most).astype(np.uint8)
    return np.concatenate([*heads, *packed], axis=1), q


def _over(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0. In float64, where no quotient of two float32 overflows."""
    import numpy as np

    a, b = np.broadcast_arrays(a.astype(np.float64), b)
    found: Array = np.divide(a, b, out=np.zeros(a.shape), where=b != 0)
    return found


def _near_one(x: Array) -> tuple[Array, Array]:
    """(length, sub-blocks) numbers brought near 1 by a power of two for each sub-block, and that power's exponent."""
    import numpy as np

    exponent = np.frexp(np.abs(x).max(axis=0))[1]
    return np.ldexp(x, -exponent), exponent


def _best_lines(x: Array, most: int, first: float, tries: int) -> tuple[Array, Array]:
    """For each column of (32, sub-blocks) numbers the step s ≥ 0 and the depth m ≥ 0 of the line s × q - m, q in
    0..most, near which they lie: large numbers count more. The tried steps are those with which the range would take
    most + first, most + first + 0.1 … codes. (sub-blocks,) float64 each."""
    import numpy as np

    x, exponent = _near_one(x)
    weight = np.abs(x) + np.sqrt((x * x).mean(axis=0))
    least = np.minimum(x.min(axis=0), 0)
    above, span = x - least, x.max(axis=0) - least
    sum_w, sum_x = weight.sum(axis=0), (weight * x).sum(axis=0)
    step, low, error = span / np.float32(most), least, np.full(span.shape, np.inf, np.float32)
    for i in range(-1, tries):
        codes = np.float32(most if i < 0 else most + first + 0.1 * i)
        q = np.clip(np.rint(above * _inverse(span, codes)), 0, most)
        if i < 0:
            s, m = step, least
        else:
            wq = weight * q
            s, m = _line(sum_w, sum_x, wq.sum(axis=0), (wq * q).sum(axis=0), (wq * x).sum(axis=0))
        off = q * s + (m - x)
        found = (weight * off * off).sum(axis=0)
        better = found < error
        step, low, error = np.where(better, s, step), np.where(better, m, low), np.where(better, found, error)
    return np.ldexp(step.astype(np.float64), exponent), np.ldexp(-low.astype(np.float64), exponent)


def _line(sum_w: Array, sum_x: Array, sum_q: Array, sum_qq: Array, sum_qx: Array) -> tuple[Array, Array]:
    """Step and value at 0 of the line of least weighted square error through codes, with a value at 0 of at most 0.
    The sums are weighted. NaN, which is better than nothing, where no line is determined."""
    import numpy as np

    spread = sum_w * sum_qq - sum_q * sum_q
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(spread > 0, (sum_w * sum_qx - sum_x * sum_q) / spread, np.nan)
        low = (sum_qq * sum_x - sum_q * sum_qx) / spread
        through_zero = low > 0
        return np.where(through_zero, sum_qx / sum_qq, step), np.where(through_zero, np.float32(0), low)


def _signed_steps(x: Array) -> Array:
    """For each column of (16, sub-blocks) numbers the step s, of either sign, of least square error of s × q, q in
    -32..31, weighted by the squares of the numbers. (sub-blocks,) float64."""
    import numpy as np

    x, exponent = _near_one(x)
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    weighted = x * x
    step, gain = np.zeros_like(extreme), np.zeros_like(extreme)
    for i in (0, *range(-9, 0), *range(1, 10)):
        q = np.clip(np.rint(x * _inverse(-extreme, np.float32(32 + 0.1 * i))), -32, 31)
        wq = weighted * q
        sum_qx, sum_qq = (wq * x).sum(axis=0), (wq * q).sum(axis=0)
        better = (sum_qq > 0) & (sum_qx * sum_qx > gain * sum_qq)
        best = sum_qx / np.where(sum_qq > 0, sum_qq, 1)
        step, gain = np.where(better, best, step), np.where(better, best * sum_qx, gain)
    found: Array = np.ldexp(step.astype(np.float64), exponent)
    return found


def _inverse(span: Array, codes: Any) -> Array:
    """codes / span, and 0 where the span is 0."""
    import numpy as np

    found: Array = np.divide(codes, span, out=np.zeros_like(span), where=span != 0)
    return found
