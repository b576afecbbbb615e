"""Types in which weights lie in files and in memory, as ggml names them: numbers a block, bytes a block."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class WeightType:
    """One type. `block` numbers lie side by side in `bytes` bytes; `ggml` is its number in a GGUF file."""

    name: str
    block: int
    bytes: int
    ggml: int

    @property
    def bits(self) -> float:
        """Bits of a weight, scales counted in."""
        return 8 * self.bytes / self.block

    @property
    def quantised(self) -> bool:
        """Whether several numbers share a scale."""
        return self.block > 1

    @property
    def narrow(self) -> bool:
        """Whether numbers have fewer bits than float32's."""
        return self.bits < 32

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether rows of that length are whole blocks."""
        return bool(shape) and shape[-1] % self.block == 0

    def row(self, length: int) -> int:
        """Bytes of a row of `length` numbers. Raises ValueError where it is not whole blocks."""
        if length % self.block:
            raise ValueError(f"a row of {length} numbers is no multiple of the {self.block} of a block of {self.name}")
        return length // self.block * self.bytes

    def size(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor; its last axis is the one that blocks lie along. Raises ValueError as `row` does."""
        return prod(shape[:-1]) * self.row(shape[-1] if shape else 1)


TYPES = {
    one.name: one
    for one in (
        WeightType("f32", 1, 4, 0),
        WeightType("f16", 1, 2, 1),
        WeightType("q4_0", 32, 18, 2),
        WeightType("q4_1", 32, 20, 3),
        WeightType("q5_0", 32, 22, 6),
        WeightType("q5_1", 32, 24, 7),
        WeightType("q8_0", 32, 34, 8),
        WeightType("q4_k", 256, 144, 12),
        WeightType("q5_k", 256, 176, 13),
        WeightType("q6_k", 256, 210, 14),
        WeightType("bf16", 1, 2, 30),
    )
}
"""Types that are read and written, by name."""
BY_NUMBER = {one.ggml: one for one in TYPES.values()}
"""The same, by their number in a GGUF file."""
UNREAD = {
    9: "q8_1",
    10: "q2_k",
    11: "q3_k",
    15: "q8_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "i8",
    25: "i16",
    26: "i32",
    27: "i64",
    28: "f64",
    29: "iq1_m",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
    40: "nvfp4",
    41: "q1_0",
}
"""Types that exist and are not read, by their number in a GGUF file: a refusal names them."""
