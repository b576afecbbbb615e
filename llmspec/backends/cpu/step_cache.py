"""Captured steps in the user's private cache: addressed by everything that shaped them, checked before they are run.

A Program is machine code, so an entry is read only where nobody but the user can write, and only if its keyed digest is
right; the key is made once and never leaves that folder. Entries are plain arrays and JSON, never pickles.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import io
import json
import os
import platform
import sys
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmspec.backends import shield, tinygrad_private
from llmspec.backends.cpu import early
from llmspec.backends.cpu.toolchain import prepare
from llmspec.core.folders import cache_dir, private_folder, read_private, write_atomically
from llmspec.core.hashing import digest
from llmspec.core.shipped import PACKAGE
from llmspec.parts.base import Part

WORDS, HEAD, TOGETHER, WHOLE = 64, 2, 32, 1 << 16
"""Of a table row: its words; the first two are the function and the number of arguments, whose upper half (from bit
TOGETHER) is the number of rows that run together, split for cores or, with the bit WHOLE, each on one thread."""
FORMAT = 2
FOLDER, SECRET, SUFFIX, SECRET_BYTES = "programs", "secret", ".program", 32
KEPT_BYTES = 256 << 20
"""The oldest entries go when the folder grows beyond this."""


class NotReplayable(Exception):
    """This step is left to tinygrad; the reason is for the lab, not for people."""


@dataclass(frozen=True)
class Returned:
    """A tensor that a step returns: where its numbers lie, its shape and dtype."""

    buffer: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Program:
    """A captured step without addresses: they are put in where it runs."""

    rows: list[list[int]]  # number of a code, count of arguments, arguments (0 where one of the lists below puts it in)
    given: list[tuple[int, int, int, int]]  # row, word, input, offset in bytes
    own: list[tuple[int, int, int, int]]  # row, word, buffer, offset in bytes
    variables: list[tuple[int, int, str]]  # row, word, name
    buffers: list[int]  # bytes of each buffer
    codes: list[tuple[bytes, str]]  # object code and name
    inputs: int
    single: bool  # whether one tensor is returned, rather than a tuple
    returned: list[Returned]


def name(key: str, function: str, shapes: Any, order: Any) -> str:
    """The address of a step: what it computes, on what, by which code, compiler and machine."""
    return digest([FORMAT, key, function, shapes, order, _surroundings(), _foreign()])


@functools.cache
def _surroundings() -> str:
    flags = {k: str(v.value) for k, v in sorted(tinygrad_private.settings().items())}
    read = [hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in sources()]
    return digest([prepare().identity, early.source(), platform.python_version(), flags, shield.named(), read])


def _foreign() -> list[str]:
    """Digests of the files of parts that stand outside the package."""
    every: list[type] = [Part]
    for part in every:
        every += part.__subclasses__()
    modules = {p.__module__ for p in every if not p.__module__.startswith(f"{PACKAGE.name}.")}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file)


def sources() -> list[str]:
    """Code that shapes a step: parts, plans and steps do as well as backends, so that every file of the package
    counts."""
    return sorted(f"{folder}/{name}" for folder, _, names in os.walk(PACKAGE) for name in names if name.endswith(".py"))


# -- entries -----------------------------------------------------------------------------------------------------------
def keep(name: str, program: Program) -> None:
    """Writes an entry, whole or not at all. A cache that cannot be written is no reason to stop training."""
    try:
        folder = _folder()
        content = _pack(program)
        write_atomically(folder / f"{name}{SUFFIX}", _seal(content) + content, 0o600)
        _tidy(folder)
    except OSError:
        pass


def load(name: str) -> Program | None:
    """The entry of this name; None where there is none, or a foreign or damaged one, which is made anew."""
    try:
        path = _folder() / f"{name}{SUFFIX}"
        whole = read_private(path)
        seal, content = whole[:SECRET_BYTES], whole[SECRET_BYTES:]
        if not hmac.compare_digest(seal, _seal(content)):
            return None
        with contextlib.suppress(OSError):  # a cache that can only be read
            os.utime(path)
        return _unpack(content)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _folder() -> Path:
    return private_folder(cache_dir() / FOLDER)


@functools.cache
def _secret(folder: Path) -> bytes:
    path = folder / SECRET
    for _ in range(2):
        try:
            held = read_private(path)
            if len(held) == SECRET_BYTES:
                return held
        except OSError:
            pass
        write_atomically(path, os.urandom(SECRET_BYTES), 0o600)  # two processes at once: the last one's stays
    return read_private(path)


def _seal(content: bytes) -> bytes:
    return hmac.new(_secret(_folder()), content, hashlib.sha256).digest()


def _tidy(folder: Path) -> None:
    entries = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in folder.glob(f"*{SUFFIX}")), reverse=True)
    total = 0
    for _, size, path in entries:
        total += size
        if total > KEPT_BYTES:
            path.unlink(missing_ok=True)


def _pack(program: Program) -> bytes:
    import numpy as np

    lengths = [len(row) for row in program.rows]
    plain = {
        "variables": program.variables,
        "inputs": program.inputs,
        "single": program.single,
        "names": [n for _, n in program.codes],
        "returned": [asdict(r) for r in program.returned],
    }
    arrays = {
        "rows": np.array([w for row in program.rows for w in row], np.uint64),
        "lengths": np.array(lengths, np.int64),
        "given": np.array(program.given, np.int64).reshape(-1, 4),
        "own": np.array(program.own, np.int64).reshape(-1, 4),
        "buffers": np.array(program.buffers, np.int64),
        "sizes": np.array([len(c) for c, _ in program.codes], np.int64),
        "codes": np.frombuffer(b"".join(c for c, _ in program.codes), np.uint8),
        "plain": np.frombuffer(json.dumps(plain).encode(), np.uint8),
    }
    made = io.BytesIO()
    np.savez(made, **arrays)  # type: ignore[arg-type]
    return made.getvalue()


def _unpack(content: bytes) -> Program:
    import numpy as np

    held = np.load(io.BytesIO(content), allow_pickle=False)
    plain = json.loads(held["plain"].tobytes())
    ends, code_ends = np.cumsum(held["lengths"]), np.cumsum(held["sizes"])
    rows = [row.tolist() for row in np.split(held["rows"], ends[:-1])]
    codes = [c.tobytes() for c in np.split(held["codes"], code_ends[:-1])]
    return Program(
        rows=rows,
        given=[tuple(x) for x in held["given"].tolist()],
        own=[tuple(x) for x in held["own"].tolist()],
        variables=[tuple(v) for v in plain["variables"]],
        buffers=held["buffers"].tolist(),
        codes=list(zip(codes, plain["names"], strict=True)),
        inputs=plain["inputs"],
        single=plain["single"],
        returned=[Returned(**{**r, "shape": tuple(r["shape"])}) for r in plain["returned"]],
    )
