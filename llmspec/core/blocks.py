"""Numbers in plain types and in blocks of 32 with one scale: bytes to numbers and back, as ggml lays them out.

Every function takes and gives whole blocks: (blocks, bytes a block) uint8 on one side, (blocks, numbers a block)
float32 on the other. Of four bits, the low nibbles of a block's bytes hold its first 16 numbers, the high nibbles the
others; a fifth bit lies apart, one for each number, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

HALF = 16
"""Numbers in one half of a block of 32."""


def read_f32(blocks: Array) -> Array:
    """float32, as it lies."""
    return blocks.view("<f4")


def read_f16(blocks: Array) -> Array:
    """IEEE half."""
    import numpy as np

    return blocks.view("<f2").astype(np.float32)


def read_bf16(blocks: Array) -> Array:
    """The upper half of a float32."""
    import numpy as np

    return (blocks.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def read_q8_0(blocks: Array) -> Array:
    """scale × q, q in -128..127."""
    import numpy as np

    return blocks[:, 2:].view(np.int8) * scale(blocks, 0)


def read_q4_0(blocks: Array) -> Array:
    """scale × (q - 8), q in 0..15."""
    import numpy as np

    return (nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8)) * scale(blocks, 0)


def read_q4_1(blocks: Array) -> Array:
    """scale × q + minimum, q in 0..15."""
    return nibbles(blocks[:, 4:]) * scale(blocks, 0) + scale(blocks, 2)


def read_q5_0(blocks: Array) -> Array:
    """scale × (q - 16), q in 0..31."""
    import numpy as np

    q = nibbles(blocks[:, 6:]) | _fifth(blocks[:, 2:6])
    return (q.astype(np.float32) - np.float32(16)) * scale(blocks, 0)


def read_q5_1(blocks: Array) -> Array:
    """scale × q + minimum, q in 0..31."""
    return (nibbles(blocks[:, 8:]) | _fifth(blocks[:, 4:8])) * scale(blocks, 0) + scale(blocks, 2)


def write_f32(x: Array) -> Array:
    """As `read_f32` reads."""
    import numpy as np

    return np.ascontiguousarray(x, "<f4").view(np.uint8)


def write_f16(x: Array) -> Array:
    """The nearest, to even at a tie."""
    return half(x)


def write_bf16(x: Array) -> Array:
    """The nearest, to even at a tie; finite numbers that round to infinity do so."""
    import numpy as np

    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)).astype("<u2").view(np.uint8)


def write_q8_0(x: Array) -> Array:
    """The largest magnitude becomes 127; ties go away from 0."""
    import numpy as np

    step = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * reciprocal(step)
    size = np.abs(scaled)
    whole = np.floor(size)
    whole += np.floor(np.float32(2) * (size - whole))
    q = np.copysign(whole, scaled).astype(np.int8)
    return np.concatenate([half(step), q.view(np.uint8)], axis=1)


def write_q4_0(x: Array) -> Array:
    """The number of largest magnitude becomes 0 of 15, which reads as -8 steps."""
    import numpy as np

    step = _extreme(x) / np.float32(-8)
    return np.concatenate([half(step), _packed(_codes(x, step, 8.5, 15))], axis=1)


def write_q4_1(x: Array) -> Array:
    """The least number becomes 0, the greatest 15."""
    import numpy as np

    least, step = _range(x, 15)
    return np.concatenate([half(step), half(least), _packed(_codes(x - least, step, 0.5, 15))], axis=1)


def write_q5_0(x: Array) -> Array:
    """The number of largest magnitude becomes 0 of 31, which reads as -16 steps."""
    import numpy as np

    step = _extreme(x) / np.float32(-16)
    q = _codes(x, step, 16.5, 31)
    return np.concatenate([half(step), _fifths(q), _packed(q)], axis=1)


def write_q5_1(x: Array) -> Array:
    """The least number becomes 0, the greatest 31."""
    import numpy as np

    least, step = _range(x, 31)
    q = _codes(x - least, step, 0.5, 31)
    return np.concatenate([half(step), half(least), _fifths(q), _packed(q)], axis=1)


def scale(blocks: Array, at: int) -> Array:
    """The half-precision number at a byte of each block: (blocks, 1) float32."""
    import numpy as np

    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def half(x: Array) -> Array:
    """(blocks, n) numbers as half precision: (blocks, 2 n) bytes. What is beyond the largest becomes infinite."""
    import numpy as np

    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x.astype("<f2")).view(np.uint8)


def nibbles(packed: Array) -> Array:
    """(blocks, n) bytes -> (blocks, 2 n) numbers below 16: the low nibbles, then the high ones."""
    import numpy as np

    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)


def reciprocal(step: Array) -> Array:
    """1 / step; 0 where the step is 0, or so small that the reciprocal is infinite: in half precision it is 0 too."""
    import numpy as np

    with np.errstate(divide="ignore", over="ignore"):
        found = np.float32(1) / step
    found[np.isinf(found)] = 0
    return found


def _packed(q: Array) -> Array:
    """The lower four bits of (blocks, 32) numbers, in pairs: what `nibbles` takes apart."""
    import numpy as np

    return (q[:, :HALF] & np.uint8(15)) | (q[:, HALF:] << np.uint8(4))


def _fifth(packed: Array) -> Array:
    """(blocks, 4) bytes -> (blocks, 32) numbers that are 0 or 16."""
    import numpy as np

    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _fifths(q: Array) -> Array:
    """The fifth bit of (blocks, 32) numbers: what `_fifth` takes apart."""
    import numpy as np

    return np.packbits(q >> np.uint8(4), axis=1, bitorder="little")


def _extreme(x: Array) -> Array:
    """The first number of largest magnitude of each block, with its sign: (blocks, 1)."""
    import numpy as np

    return np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)


def _range(x: Array, codes: int) -> tuple[Array, Array]:
    """Each block's least number, and the step that leads from it to the greatest in `codes` steps: (blocks, 1) each."""
    import numpy as np

    least = x.min(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        return least, (x.max(axis=1, keepdims=True) - least) / np.float32(codes)


def _codes(x: Array, step: Array, offset: float, most: int) -> Array:
    """x / step + offset without its fraction, within 0..most. The product is rounded to float32 before the sum: one
    fused operation would round once, and numbers halfway between two codes would fall elsewhere on other processors."""
    import numpy as np

    scaled = x * reciprocal(step)
    return np.clip(np.trunc(scaled + np.float32(offset)), 0, most).astype(np.uint8)
