"""Arrays in safetensors files (huggingface/safetensors, README, "Format"), written and read without trust.

Written here so that a full disk is an OSError with its number, and each array goes to the file without a copy of all of
them; read here so that nothing of a header is believed: names, shapes and types are compared with those that are
expected before a byte is placed, and bytes are hashed as they are read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core import strict_json
from llmspec.core.disk import open_plain, reading
from llmspec.core.mapped import check_whole
from llmspec.core.quantised import Quantised
from llmspec.core.weight_types import TYPES

Shapes = Mapping[str, tuple[int, ...]]
HEADER = 100_000_000
"""Bytes of a header, at most: the library's own limit."""
_AT_ONCE = 16 << 20
"""Bytes written, read and hashed at a time."""


class WrongTensors(Exception):
    """A file of arrays that is not what was expected; its text says where."""


def write(path: Path, arrays: Mapping[str, Any], about: Mapping[str, str] | None = None) -> str:
    """Writes float32 arrays into a new file, synced, with texts `about` it; returns its sha256 (hex). The bytes of a
    Quantised are written as they are, as numbers of 8 bits (rows, bytes a row).

    Raises OSError, and RunError where arrays lie in a file that was cut since it was opened.
    """
    import numpy as np

    arrays = {name: a.whole() if isinstance(a, Quantised) else np.asarray(a, "<f4") for name, a in arrays.items()}
    # As the library orders them: by the width of their type, then by name.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(about)} if about else {}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        dtype = "F32" if arrays[name].itemsize == 4 else "U8"
        header[name] = {"dtype": dtype, "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    hashed = hashlib.sha256()
    with os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb", buffering=0) as f:

        def put(data: Any) -> None:
            view = memoryview(data).cast("B")
            for start in range(0, len(view), _AT_ONCE):
                piece = view[start : start + _AT_ONCE]
                hashed.update(piece)
                while piece:
                    piece = piece[f.write(piece) :]

        put(struct.pack("<Q", len(text)) + text)
        for name in names:
            if arrays[name].size:
                check_whole(arrays[name])
                put(np.ascontiguousarray(arrays[name]).reshape(-1))
        os.fsync(f.fileno())
    return hashed.hexdigest()


def read(path: Path, expected: Shapes, types: Mapping[str, str] | None = None) -> tuple[dict[str, Any], str]:
    """(name -> array, sha256 of the file): exactly the arrays of `expected`, float32; a Quantised of those that `types`
    has a type of weights for.

    Raises:
        OSError: the file cannot be read.
        WrongTensors: other names, shapes or types than expected, types that do not fit, or a file that is none of
            these.
    """
    import numpy as np

    lying = _lying(expected, types or {})
    with reading(path) as f:
        found = os.fstat(f.fileno()).st_size
        hashed = hashlib.sha256()
        places, start = _header(f, found, lying, hashed)
        out = {name: np.empty(shape, np.uint8 if dtype == "U8" else "<f4") for name, (dtype, shape) in lying.items()}
        for name in sorted(places, key=lambda n: places[n]):
            if out[name].size:
                _fill(f, out[name].reshape(-1).view(np.uint8).data, hashed)
        if f.read(1) or f.tell() != found or found != start + sum(a.nbytes for a in out.values()):
            raise WrongTensors("its length changed while it was read")
    made = {name: Quantised(kind, expected[name], out[name]) for name, kind in (types or {}).items()}
    if wrong := next((name for name, quantised in made.items() if not quantised.finite()), None):
        raise WrongTensors(f"{wrong} has scales that are NaN or infinite")
    return {**out, **made}, hashed.hexdigest()


def _lying(expected: Shapes, types: Mapping[str, str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (type and shape that an array has in the file)."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {name: ("F32", tuple(shape)) for name, shape in expected.items()}
    for name, kind in types.items():
        if name not in expected or kind not in TYPES or not TYPES[kind].fits(tuple(expected[name])):
            raise WrongTensors(f"{name[:80]} cannot be of the type {kind[:20]!r}")
        shape = expected[name]
        found[name] = "U8", (math.prod(shape[:-1]), TYPES[kind].row(shape[-1]))
    return found


def _fill(f: Any, view: memoryview, hashed: Any) -> None:
    for start in range(0, len(view), _AT_ONCE):
        piece = view[start : start + _AT_ONCE]
        if f.readinto(piece) != len(piece):
            raise WrongTensors("it is cut short")
        hashed.update(piece)


def _header(
    f: Any, found: int, expected: Mapping[str, tuple[str, tuple[int, ...]]], hashed: Any
) -> tuple[dict[str, int], int]:
    """(name -> first byte, where the arrays begin); everything checked against `expected` and the file's length."""
    header, begin = _parsed(f, found, hashed)
    if wrong := _names(set(header), set(expected)):
        raise WrongTensors(wrong)
    places, end = {}, 0
    for name, about in header.items():
        dtype, shape = expected[name][0], list(expected[name][1])
        if not isinstance(about, dict) or about.get("dtype") != dtype or about.get("shape") != shape:
            given = about if isinstance(about, dict) else {}
            raise WrongTensors(
                f"{name} is {str(given.get('dtype'))[:20]} {str(given.get('shape'))[:60]}, and the plan says "
                f"{dtype} {shape}"
            )
        offsets, count = about.get("data_offsets"), WIDTHS[dtype]
        for n in shape:
            count *= n
        if not (
            isinstance(offsets, list)
            and [type(n) for n in offsets] == [int, int]
            and offsets[1] - offsets[0] == count
            and offsets[0] >= 0
        ):
            raise WrongTensors(f"the bytes of {name} do not lie where an array of its shape can lie")
        places[name] = offsets[0]
    for name in sorted(places, key=lambda n: header[n]["data_offsets"]):
        if places[name] != end:
            raise WrongTensors(f"the bytes of {name} overlap others, or leave a gap")
        end = header[name]["data_offsets"][1]
    if begin + end != found:
        raise WrongTensors(f"it has {found:,} bytes, and its arrays need {begin + end:,}")
    return places, begin


def _parsed(f: Any, found: int, hashed: Any) -> tuple[dict[str, Any], int]:
    """(the header's arrays by name, where the arrays begin) of a file of `found` bytes."""
    first = f.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= length <= min(HEADER, found - 8):
        raise WrongTensors(f"its header would have {length:,} bytes, and the file has {found:,}")
    text = f.read(length)
    hashed.update(first + text)
    try:
        header = strict_json.loads(text)
    except ValueError as e:
        raise WrongTensors(f"its header cannot be read: {e}") from None
    if not isinstance(header, dict):
        raise WrongTensors("its header is not a table of arrays")
    header.pop("__metadata__", None)
    return header, 8 + length


class Entry(NamedTuple):
    """An array of a file that others wrote: what it is said to be, and where its bytes lie."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""


WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number, by its type's name in a header."""
LARGEST_SIDE = 1 << 40


def table(f: Any) -> dict[str, Entry]:
    """Name -> array of an open file that others wrote: types known, bytes as many as shapes need, without gaps and
    overlaps, up to the end of the file. Nothing is allocated by what it says.

    Raises WrongTensors where that is not so, OSError where it cannot be read.
    """
    size = os.fstat(f.fileno()).st_size
    header, first = _parsed(f, size, hashlib.sha256())
    found: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, about in header.items():
        begin, end = _span(name, about)
        found[name] = Entry(about["dtype"], tuple(about["shape"]), first + begin)
        spans.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise WrongTensors(f"the bytes of {name[:80]} overlap others, or leave a gap")
        at = end
    if first + at != size:
        raise WrongTensors(f"it has {size:,} bytes, and its arrays need {first + at:,}")
    return found


def _span(name: str, about: Any) -> tuple[int, int]:
    """(first byte, one past the last) of an array within the arrays' bytes."""
    said: dict[str, Any] = about if isinstance(about, dict) else {}
    dtype, shape, offsets = said.get("dtype"), said.get("shape"), said.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise WrongTensors(f"{name[:80]} is of type {str(dtype)[:20]}, which is not read")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_counts(n, LARGEST_SIDE) for n in shape):
        raise WrongTensors(f"{name[:80]} has an impossible shape: {str(shape)[:60]}")
    ends = offsets if isinstance(offsets, list) and all(_counts(n, 1 << 62) for n in offsets) else []
    if len(ends) != 2 or ends[1] - ends[0] != WIDTHS[dtype] * math.prod(shape):
        raise WrongTensors(f"the bytes of {name[:80]} do not lie where an array of its shape can lie")
    return ends[0], ends[1]


def _counts(number: Any, most: int) -> bool:
    return type(number) is int and 0 <= number <= most


def _names(found: set[str], expected: set[str]) -> str:
    missing, more = sorted(expected - found), sorted(found - expected)
    if missing:
        return f"{len(missing)} arrays of the plan are missing, {missing[0][:80]} first"
    if more:
        return f"{len(more)} arrays are not of the plan, {more[0][:80]!r} first"
    return ""
