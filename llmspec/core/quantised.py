"""Weights as they lie in a file, in one of ggml's types: read, cut by rows, and made of float32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from llmspec.core import blocks, k_blocks
from llmspec.core.mapped import check_whole, map_under
from llmspec.core.problems import LlmspecError, one_of
from llmspec.core.weight_types import TYPES, WeightType

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 2**17
"""Numbers that are worked on at once: few enough to stay in a processor's cache."""
_READ: dict[str, Callable[[Array], Array]] = {
    "f32": blocks.read_f32,
    "f16": blocks.read_f16,
    "bf16": blocks.read_bf16,
    "q8_0": blocks.read_q8_0,
    "q4_0": blocks.read_q4_0,
    "q4_1": blocks.read_q4_1,
    "q5_0": blocks.read_q5_0,
    "q5_1": blocks.read_q5_1,
    "q4_k": k_blocks.read_q4_k,
    "q5_k": k_blocks.read_q5_k,
    "q6_k": k_blocks.read_q6_k,
}
_WRITE: dict[str, Callable[[Array], Array]] = {
    "f32": blocks.write_f32,
    "f16": blocks.write_f16,
    "bf16": blocks.write_bf16,
    "q8_0": blocks.write_q8_0,
    "q4_0": blocks.write_q4_0,
    "q4_1": blocks.write_q4_1,
    "q5_0": blocks.write_q5_0,
    "q5_1": blocks.write_q5_1,
    "q4_k": k_blocks.write_q4_k,
    "q5_k": k_blocks.write_q5_k,
    "q6_k": k_blocks.write_q6_k,
}
_SCALES = {"q8_0": (0,), "q4_0": (0,), "q5_0": (0,), "q6_k": (208,)}
"""Bytes of a block at which its half-precision scales begin; of other types, 0 and 2."""
_EXPONENTS = {"f16": 0x7C00, "bf16": 0x7F80}
"""The bits of a number's exponent; blocks' scales are f16."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """A tensor of `shape` in a type of `core.weight_types`. `data` holds its bytes, (rows, bytes a row) uint8: a row
    is one run of the last axis, which is whole blocks. It may be a memory map, and nothing writes into it. With an
    `order` the tensor's rows are those of `data` at these places (rows,): they are brought together when they are read,
    so that a model whose rows lie in another order than ours does not take twice its memory.

    Raises ValueError where type, shape and data do not belong together. Whatever reads its bytes raises RunError where
    the file that they lie in was cut since it was opened.
    """

    type: str
    shape: tuple[int, ...]
    data: Array
    order: Array | None = None

    def __post_init__(self) -> None:
        kind = TYPES.get(self.type)
        if kind is None:
            raise ValueError(f"no type of weights is named {self.type}")
        if not kind.fits(self.shape):
            raise ValueError(f"rows of shape {self.shape} are no whole blocks of {kind.block} as {self.type} has them")
        wanted = (prod(self.shape[:-1]), kind.row(self.shape[-1]))
        there = self.data.shape if self.order is None else (len(self.order), *self.data.shape[1:])
        if there != wanted or self.data.dtype.name != "uint8":
            raise ValueError(f"{self.type} of shape {self.shape} takes {wanted} bytes, not {there}")

    @property
    def kind(self) -> WeightType:
        """The type's entry in the table."""
        return TYPES[self.type]

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Numbers in all."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return self.kind.size(self.shape)

    def whole(self) -> Array:
        """The bytes (rows, bytes a row), once it is known that the file in which they lie is still as long as it was:
        for whoever reads all of them. Raises RunError."""
        check_whole(self.data)
        return self.data if self.order is None else self.data[self.order]

    def dequantised(self) -> Array:
        """The numbers: float32 of `shape`, bit for bit those of ggml's reference. Raises RunError, as `whole` does."""
        import numpy as np

        data = self.whole()
        out = np.empty((len(data), self.shape[-1]), np.float32)
        read, kind = _READ[self.type], self.kind
        for part in _rows_at_once(*out.shape):
            packed = np.ascontiguousarray(data[part])
            with np.errstate(invalid="ignore", over="ignore"):  # bytes may hold infinite scales: see `finite`
                out[part] = read(packed.reshape(-1, kind.bytes)).reshape(len(packed), -1)
        return out.reshape(self.shape)

    def __getitem__(self, index: Any) -> Quantised:
        """Entries of the first axis, by a slice or by an array of integers: exactly the same numbers.

        Raises ValueError for a tensor of one axis, whose entries are no blocks, and for any other index.
        """
        import numpy as np

        if self.ndim < 2:
            raise ValueError("a quantised tensor of one axis has no rows")
        if not isinstance(index, slice) and not (isinstance(index, list | np.ndarray) and np.ndim(index) == 1):
            raise ValueError("rows are taken by a slice or by a list of their numbers")
        if isinstance(index, slice) and self.order is None:
            taken = self.data.reshape(self.shape[0], -1)[index]
            shape = (len(taken), *self.shape[1:])
            return Quantised(self.type, shape, taken.reshape(prod(shape[:-1]), self.data.shape[1]))
        places = np.arange(prod(self.shape[:-1])) if self.order is None else self.order
        order = places.reshape(self.shape[0], -1)[index]
        return Quantised(self.type, (len(order), *self.shape[1:]), self.data, order.reshape(-1))

    def rows(self, start: int, stop: int) -> Quantised:
        """Entries `start` to `stop` - 1 of the first axis; no bytes are copied."""
        return self[start:stop]

    def reshaped(self, *shape: int) -> Quantised:
        """The same bytes with other axes before the last one, which stays. Raises ValueError where that cannot be."""
        if not shape or shape[-1] != self.shape[-1]:
            raise ValueError(f"blocks lie along {self.shape[-1]} numbers, which {shape} tears apart")
        return Quantised(self.type, shape, self.data, self.order)

    def let_go(self) -> None:
        """Lets go of the pages of a mapped file, which would count as this process's memory; they are read again where
        they are needed."""
        import mmap

        found = map_under(self.data)
        if found is not None and hasattr(found, "madvise"):
            with contextlib.suppress(OSError, ValueError):
                found.madvise(mmap.MADV_DONTNEED)

    def finite(self) -> bool:
        """Whether every number is finite. Of blocks only the scales are looked at: nothing else can be infinite."""
        import numpy as np

        kind, data = self.kind, self.whole()
        return all(
            _finite(np.ascontiguousarray(data[part]).reshape(-1, kind.bytes), kind)
            for part in _rows_at_once(len(data), self.shape[-1] // kind.block)
        )


def as_float32(array: Array | Quantised) -> Array:
    """An array as it is, or the numbers of a quantised one: what is computed with where nothing reads its type. Raises
    RunError where it lies in a file that was cut since it was opened."""
    if isinstance(array, Quantised):
        return array.dequantised()
    check_whole(array)
    return array


def quantise(type: str, array: Array, name: str = "a tensor") -> Quantised:
    """float32 numbers in a type of weights, the same bytes on every processor.

    f16, bf16, q8_0, q4_0, q4_1, q5_0 and q5_1 are bit for bit ggml's reference; what q4_k, q5_k and q6_k do is told in
    `core.k_blocks`.

    Args:
        type: a name of `core.weight_types.TYPES`.
        array: of at least one axis; the last one is whole blocks.
        name: how a message calls the tensor.

    Raises LlmspecError where the type has no such name, rows are no whole blocks, or a number is not finite, or is too
    large for a scale of the type; RunError as `as_float32` does.
    """
    import numpy as np

    check_whole(array)
    kind = TYPES.get(type)
    if kind is None:
        raise LlmspecError(f"no type of weights is named `{type}`", one_of(type, TYPES))
    if not kind.fits(array.shape):
        raise LlmspecError(
            f"{name}, of shape {tuple(array.shape)}, cannot be written as {type}, whose blocks are of {kind.block}",
            hint="a type without blocks, such as f16, or of shorter ones, such as q8_0",
        )
    flat = array.reshape(-1, array.shape[-1])
    data = np.empty((len(flat), kind.row(flat.shape[1])), np.uint8)
    for part in _rows_at_once(*flat.shape):
        x = np.ascontiguousarray(flat[part], np.float32)
        if not np.isfinite(x).all():
            raise LlmspecError(f"{name} holds numbers that are not finite", "such a model gives no text")
        with np.errstate(invalid="ignore"):  # a scale that half precision cannot hold is refused below
            packed = _WRITE[type](x.reshape(-1, kind.block))
        if not _finite(packed, kind):
            raise LlmspecError(f"{name} holds {abs(x).max():.3g}, which is too large for {type}", "bf16 or f32 hold it")
        data[part] = packed.reshape(len(x), -1)
    return Quantised(type, tuple(array.shape), data)


def _finite(packed: Array, kind: WeightType) -> bool:
    """Whether no number of blocks (blocks, bytes) is NaN or infinite: one whose exponent is all ones."""
    import numpy as np

    if kind.name not in _EXPONENTS and not kind.quantised:
        return bool(np.isfinite(_READ[kind.name](packed)).all())
    words, ones = packed.view("<u2"), np.uint16(_EXPONENTS.get(kind.name, _EXPONENTS["f16"]))
    places = [at // 2 for at in _SCALES.get(kind.name, (0, 2))] if kind.quantised else [0]
    return not any(((words[:, at] & ones) == ones).any() for at in places)


def _rows_at_once(rows: int, length: int) -> Iterator[slice]:
    """Rows in groups of at most CHUNK numbers, at least one row each."""
    step = max(1, CHUNK // max(1, length))
    return (slice(at, min(at + step, rows)) for at in range(0, rows, step))
