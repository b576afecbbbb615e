"""Writes a GGUF file (ggml-org/ggml, "GGUF", version 3): metadata, then tensors, one after another.

A tensor's bytes are made when it is their turn, so that no more than one is in memory beside the model.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

from llmspec.core.disk import open_plain
from llmspec.core.quantised import Quantised
from llmspec.core.weight_types import TYPES

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
NUMBERS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}
"""Kind of a number in metadata -> its type, and how it lies there."""
TEXT, ARRAY = 8, 9
_AT_ONCE = 16 << 20


@dataclass(frozen=True)
class Array:
    """A list in metadata, all of one kind: `text`, or one of NUMBERS."""

    kind: str
    items: Sequence[Any]


Value = bool | int | float | str | Array
"""What a key of metadata may be: whole numbers are u32 (u64 where they are larger), others f32."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that is to be written: its name, type and shape, and what makes it."""

    name: str
    type: str
    shape: tuple[int, ...]
    make: Callable[[], Quantised]

    @property
    def size(self) -> int:
        """Bytes."""
        return TYPES[self.type].size(self.shape)


def write(
    path: Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[Tensor],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes a new file, synced. `progress` is told how many tensors are written. Raises OSError, and RunError where a
    file of weights was cut that is read meanwhile."""
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    start = 0
    for tensor in tensors:
        turned = tensor.shape[::-1]  # the format begins with the axis whose numbers lie side by side
        about = struct.pack(f"<I{len(turned)}QIQ", len(turned), *turned, TYPES[tensor.type].ggml, start)
        head += _text(tensor.name) + about
        start += _padded(tensor.size)
    with os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as f:
        _put(f, head)
        for done, tensor in enumerate(tensors):
            progress(done, len(tensors))
            made = tensor.make()
            assert (made.type, made.shape) == (tensor.type, tensor.shape), f"{tensor.name} is not what was announced"
            _put(f, made.whole())
        f.flush()
        os.fsync(f.fileno())


def _put(f: BinaryIO, data: Any) -> None:
    """Bytes, and zeros up to where the next ones may begin."""
    import numpy as np

    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytearray) else np.ascontiguousarray(data).reshape(-1)
    for at in range(0, len(raw), _AT_ONCE):
        f.write(raw[at : at + _AT_ONCE].data)
    f.write(b"\0" * (_padded(len(raw)) - len(raw)))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    """A value with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, Array):
        if value.kind == "text":
            return struct.pack("<IIQ", ARRAY, TEXT, len(value.items)) + b"".join(map(_text, value.items))
        number, layout = NUMBERS[value.kind]
        return struct.pack("<IIQ", ARRAY, number, len(value.items)) + b"".join(
            map(struct.pack, repeat(layout), value.items)
        )
    kind = "bool" if isinstance(value, bool) else "f32" if isinstance(value, float) else "u32"
    if kind == "u32" and value > 0xFFFF_FFFF:
        kind = "u64"
    number, layout = NUMBERS[kind]
    return struct.pack("<I", number) + struct.pack(layout, value)
