"""What float32 makes of a number. Graphs compute in it, with denormals taken for 0."""

from __future__ import annotations

import struct
from math import inf, isinf

SMALLEST = 2.0**-126
"""The smallest number above 0 that is no denormal."""
LARGEST = 2.0**128 - 2.0**104
STEP_BELOW_ONE = 2.0**-25
"""What is taken from 1 and is not more than this leaves 1."""


def rounded(value: float) -> float:
    """The nearest float32; 0 for denormals, infinite beyond the largest."""
    try:
        near: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return inf if value > 0 else -inf
    return 0.0 if abs(near) < SMALLEST else near


def lost(value: float) -> str:
    """How a number is lost in float32, in words; '' where it is there."""
    near = rounded(value)
    if isinf(near):
        return f"is infinite in float32, whose largest number is {LARGEST:.2g}"
    if value and not near:
        return f"is 0 in float32, whose smallest number is {SMALLEST:.2g}"
    return ""
