"""What stands in a GGUF file before its numbers (ggml-org/ggml, "GGUF"), read without trust.

Every count, length and offset is held against the file's own length before anything is made of it, so that nothing is
allocated by a header's word; every fault is named with the byte at which it stands.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.core.disk import explained
from llmspec.core.mapped import check_whole, mapped
from llmspec.core.problems import RunError
from llmspec.core.regular import open_regular
from llmspec.core.weight_types import BY_NUMBER, UNREAD

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
USUAL_ALIGNMENT = 32
LARGEST_ALIGNMENT = 1 << 20
LONGEST_KEY, LONGEST_NAME = 65_535, 64
"""Bytes of a key of metadata, and of a tensor's name (the format's own limits)."""
LONGEST_TEXT = 64 << 20
"""Bytes of a text in metadata."""
MOST_ITEMS = 1 << 24
"""Items of an array in metadata: as many as a vocabulary may have ids."""
MOST_KEYS, MOST_TENSORS = 1 << 16, 1 << 20
MOST_AXES, LONGEST_AXIS = 4, 1 << 40
TEXT, ARRAY = 8, 9
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""Type of a value in metadata -> how it lies there."""


class WrongGGUF(Exception):
    """A file that is no whole GGUF file; its text says what is wrong and where."""


class Entry(NamedTuple):
    """A tensor: its type (a name of core.weight_types), its shape with the longest-lying axis last, its bytes."""

    type: str
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Texts:
    """An array of texts as it lies in the file, decoded as it is gone through."""

    buffer: Any
    start: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        """Raises WrongGGUF for a text that is not UTF-8, RunError where the file was cut since it was opened."""
        check_whole(self.buffer)
        buffer, at, length = self.buffer, self.start, struct.Struct("<Q").unpack_from
        for _ in range(self.count):
            (size,) = length(buffer, at)
            yield _decoded(buffer[at + 8 : at + 8 + size], at)
            at += 8 + size


@dataclass(frozen=True)
class Numbers:
    """An array of numbers or truths as it lies in the file."""

    buffer: Any
    start: int
    count: int
    layout: str

    def __len__(self) -> int:
        return self.count

    def array(self) -> np.ndarray:
        """All of them, as an array that is a view of the file. Raises RunError where that was cut since then."""
        import numpy as np

        check_whole(self.buffer)
        kind = "?" if self.layout == "?" else f"{self.layout[0]}{_NUMPY[self.layout[1]]}"
        return np.frombuffer(self.buffer, kind, self.count, self.start)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array().tolist())


_NUMPY = {"B": "u1", "b": "i1", "H": "u2", "h": "i2", "I": "u4", "i": "i4", "f": "f4", "Q": "u8", "q": "i8", "d": "f8"}


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    path: Path
    buffer: mmap.mmap
    size: int
    """Bytes of the file."""
    metadata: Mapping[str, Any]
    """Key -> whole number, number, truth, text, Texts or Numbers."""
    tensors: Mapping[str, Entry]
    end: int
    """One past the last byte of what is said; behind it come the tensors."""


def read_header(path: Path) -> Header:
    """The header of a file, which is mapped into memory. Raises RunError with what is wrong with it, and where."""
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            if size < 24:
                raise WrongGGUF(f"it has {size:,} bytes, and the shortest header has 24")
            buffer = mapped(f, path)
        return _Reader(path, buffer, len(buffer)).header()
    except OSError as error:
        raise RunError(explained(error, path)) from None
    except WrongGGUF as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, why: str) -> RunError:
    """The error for a file that is not whole."""
    return RunError(
        f"{path} cannot be read: {why}",
        hint="download it again, whole",
        consequence="its numbers would be misread",
    )


def _decoded(raw: bytes, at: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WrongGGUF(f"the text at byte {at:,} is not UTF-8 (its byte {error.start})") from None


class _Reader:
    """Goes through a header once; `at` is where it stands."""

    def __init__(self, path: Path, buffer: mmap.mmap, size: int) -> None:
        self.path, self.buffer, self.size, self.at = path, buffer, size, 0

    def header(self) -> Header:
        self.begin()
        tensors, keys = self.number("<Q"), self.number("<Q")
        if keys > min(MOST_KEYS, (self.size - self.at) // 13):
            raise WrongGGUF(f"at byte 16 it counts {keys:,} keys, more than it can hold")
        if tensors > min(MOST_TENSORS, (self.size - self.at) // 24):
            raise WrongGGUF(f"at byte 8 it counts {tensors:,} tensors, more than it can hold")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            at, key = self.at, self.text(LONGEST_KEY, "a key")
            if key in metadata:
                raise WrongGGUF(f"the key {key[:80]!r} at byte {at:,} is there twice")
            metadata[key] = self.value(key)
        said = [self.tensor() for _ in range(tensors)]
        end = self.at
        return Header(self.path, self.buffer, self.size, metadata, self.placed(said, metadata), end)

    def begin(self) -> None:
        if self.buffer[:4] != MAGIC:
            raise WrongGGUF(f"it begins with {bytes(self.buffer[:4])!r}, and a GGUF file with {MAGIC!r}")
        self.at = 4
        version = self.number("<I")
        if version in VERSIONS:
            return
        turned = int.from_bytes(version.to_bytes(4, "little"), "big")
        if turned in VERSIONS:
            raise WrongGGUF("it was written for processors of the other order of bytes (big-endian)")
        raise WrongGGUF(f"it is of version {version} of the format, and {' and '.join(map(str, VERSIONS))} are read")

    # -- pieces --------------------------------------------------------------------------------------------------------
    def room(self, size: int, what: str) -> int:
        """Where the next `size` bytes begin, which are there."""
        if size > self.size - self.at:
            raise WrongGGUF(f"it ends within {what} at byte {self.at:,}: {size:,} bytes more than its {self.size:,}")
        start, self.at = self.at, self.at + size
        return start

    def number(self, layout: str, what: str = "a number") -> Any:
        return struct.unpack_from(layout, self.buffer, self.room(struct.calcsize(layout), what))[0]

    def text(self, longest: int, what: str) -> str:
        at = self.at
        length = self.number("<Q", what)
        if length > longest:
            raise WrongGGUF(f"{what} at byte {at:,} would have {length:,} bytes, and {longest:,} are read at most")
        start = self.room(length, what)
        return _decoded(self.buffer[start : start + length], at)

    def value(self, key: str) -> Any:
        at, kind = self.at, self.number("<I", "a type")
        what = f"the value of {key[:80]!r}"
        if kind == TEXT:
            return self.text(LONGEST_TEXT, what)
        if kind == ARRAY:
            return self.array(what)
        if kind not in SCALARS:
            raise WrongGGUF(f"{what} at byte {at:,} is of type {kind}, which there is not")
        layout = SCALARS[kind]
        if layout == "?":
            return self.truth(what)
        found = self.number(layout, what)
        if isinstance(found, float) and not math.isfinite(found):
            raise WrongGGUF(f"{what} at byte {at:,} is {found}, which is no finite number")
        return shortest(found) if layout == "<f" else found

    def truth(self, what: str) -> bool:
        at = self.room(1, what)
        if self.buffer[at] > 1:
            raise WrongGGUF(f"{what} at byte {at:,} is {self.buffer[at]}, neither true nor false")
        return bool(self.buffer[at])

    def array(self, what: str) -> Texts | Numbers:
        at = self.at
        kind, count = self.number("<I", what), self.number("<Q", what)
        if kind == ARRAY:
            raise WrongGGUF(f"{what} at byte {at:,} is an array of arrays, which is not read")
        if kind != TEXT and kind not in SCALARS:
            raise WrongGGUF(f"{what} at byte {at:,} is an array of type {kind}, which there is not")
        least = 8 if kind == TEXT else struct.calcsize(SCALARS[kind])
        if count > MOST_ITEMS or count * least > self.size - self.at:
            raise WrongGGUF(f"{what} at byte {at:,} counts {count:,} items, more than it can hold")
        start = self.at
        if kind != TEXT:
            self.room(count * least, what)
            if SCALARS[kind] == "?" and (wrong := max(self.buffer[start : self.at], default=0)) > 1:
                raise WrongGGUF(f"{what} at byte {at:,} holds {wrong}, neither true nor false")
            return Numbers(self.buffer, start, count, SCALARS[kind])
        self.skip(count, what)
        return Texts(self.buffer, start, count)

    def skip(self, count: int, what: str) -> None:
        """Goes over texts, each of which is there."""
        buffer, at, size, length = self.buffer, self.at, self.size, struct.Struct("<Q").unpack_from
        for i in range(count):
            if at + 8 > size or (found := length(buffer, at)[0]) > size - at - 8:
                raise WrongGGUF(f"it ends within text {i:,} of {what}, at byte {at:,}")
            at += 8 + found
        self.at = at

    # -- tensors -------------------------------------------------------------------------------------------------------
    def tensor(self) -> tuple[str, int, str, tuple[int, ...], int]:
        """(name, byte at which it stands, type, shape, offset) of the next tensor."""
        at, name = self.at, self.text(LONGEST_NAME, "a tensor's name")
        what = f"the tensor {name!r} at byte {at:,}"
        axes = self.number("<I", what)
        if not 1 <= axes <= MOST_AXES:
            raise WrongGGUF(f"{what} has {axes:,} axes, and there are 1 to {MOST_AXES}")
        shape = tuple(reversed([self.number("<Q", what) for _ in range(axes)]))
        if not all(1 <= n <= LONGEST_AXIS for n in shape):
            raise WrongGGUF(f"{what} has an impossible shape: {list(shape)}")
        number, offset = self.number("<I", what), self.number("<Q", what)
        if number not in BY_NUMBER:
            named = f"{UNREAD[number]}, which is not read here" if number in UNREAD else f"{number}, which there is not"
            raise WrongGGUF(
                f"{what} is of type {named}; types that are: {', '.join(t.name for t in BY_NUMBER.values())}"
            )
        kind = BY_NUMBER[number]
        if shape[-1] % kind.block:
            raise WrongGGUF(f"{what} has rows of {shape[-1]:,} numbers, and {kind.name} has blocks of {kind.block}")
        return name, at, kind.name, shape, offset

    def placed(
        self, said: list[tuple[str, int, str, tuple[int, ...], int]], metadata: Mapping[str, Any]
    ) -> dict[str, Entry]:
        """Where tensors lie: in their order one behind another, aligned, up to the end of the file."""
        alignment = metadata.get(ALIGNMENT, USUAL_ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise WrongGGUF(f"`{ALIGNMENT}` is {alignment!r}, and it has to be a power of two")
        first = self.at + -self.at % alignment
        found: dict[str, Entry] = {}
        end = 0
        for name, at, kind, shape, offset in said:
            what = f"the tensor {name!r} at byte {at:,}"
            if name in found:
                raise WrongGGUF(f"{what} is there twice")
            if offset != end + -end % alignment:
                raise WrongGGUF(f"{what} has its numbers at {offset:,}, and those before it end at {end:,}")
            size = next(t for t in BY_NUMBER.values() if t.name == kind).size(shape)
            end = offset + size
            if first + end > self.size:
                raise WrongGGUF(f"{what} ends at byte {first + end:,}, and the file has {self.size:,}: it is cut short")
            found[name] = Entry(kind, shape, first + offset, size)
        if self.size > first + end + alignment - 1 and found:
            raise WrongGGUF(f"{self.size - first - end:,} bytes behind its last tensor belong to none")
        return found


def shortest(number: float) -> float:
    """The number of fewest digits that is the same in float32: 1e-05, where that was written."""
    for digits in range(1, 10):
        found = float(f"{number:.{digits}g}")
        try:
            if struct.pack("<f", found) == struct.pack("<f", number):
                return found
        except OverflowError:
            continue
    return number
