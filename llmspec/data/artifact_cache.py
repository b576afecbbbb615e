"""Content-addressed folders in the user's cache: whole or not there, also when two processes make the same one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.folders import cache_dir, private_folder, sync
from llmspec.core.problems import DataError
from llmspec.core.regular import open_regular, read_regular

ABOUT = "about.json"
SUMMED_WHOLE = 64 * 2**20
"""Files up to this many bytes are compared with their checksum whenever they are opened; longer ones where their size
or times are not those that they were written with."""
MOST_ABOUT = 64 * 2**20
"""Bytes of the notes on an entry, at most."""
_STALE = 24 * 3600
"""Seconds after which a half-written folder surely has no writer left."""


class Entry(NamedTuple):
    """A folder that was found whole, and what its writer noted about it."""

    folder: Path
    about: dict[str, Any]


def find(kind: str, key: str) -> Entry | None:
    """The entry of that kind and key, or None where there is none or it is damaged."""
    folder = cache_dir() / kind / key
    try:
        saved = json.loads(read_regular(folder / ABOUT, MOST_ABOUT).decode("utf-8"))
        whole = saved["sum"] == _sum(saved["files"], saved["about"])
        if whole and all(_holds(folder / name, *noted) for name, noted in saved["files"].items()):
            return Entry(folder, saved["about"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    return None


def make(kind: str, key: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
    """Write an entry aside with `write(folder) -> about`, sync it and move it to its place.

    A damaged entry in that place is replaced; a whole one, made meanwhile by another process, is kept.
    """
    home = private_folder(cache_dir() / kind)
    _sweep(home)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    try:
        about = write(aside)
        files = {file.name: [_state(file.stat()), _checksum(file)] for file in sorted(aside.iterdir())}
        about = json.loads(json.dumps(about))
        noted = {"files": files, "about": about, "sum": _sum(files, about)}
        (aside / ABOUT).write_text(json.dumps(noted), encoding="utf-8")
        for file in aside.iterdir():
            sync(file)
        sync(aside)
        for _ in range(5):
            try:
                aside.rename(home / key)
                sync(home)
                break
            except OSError:
                if find(kind, key):
                    break
                discard(home / key)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    entry = find(kind, key)
    if entry is None:
        raise DataError(f"{home / key} cannot be written", "remove it, or set LLMSPEC_CACHE to another folder")
    return entry


def _holds(file: Path, state: list[int], checksum: int) -> bool:
    """Whether a file is as it was written. A large one is read only where its times say that somebody wrote to it."""
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size != state[0]:
        return False
    return (found.st_size > SUMMED_WHOLE and _state(found) == state) or _checksum(file) == checksum


def _sum(files: Any, about: Any) -> int:
    return zlib.crc32(json.dumps([files, about]).encode())


def _state(status: os.stat_result) -> list[int]:
    """Size in bytes, times in ns, inode."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _checksum(file: Path) -> int:
    found = 0
    with open_regular(file) as f:
        while piece := f.read(1 << 20):
            found = zlib.crc32(piece, found)
    return found


def discard(folder: Path) -> None:
    """Take a damaged entry away in one step: whoever has it open keeps reading what he opened."""
    grave = folder.with_name(f".old-{folder.name}-{os.getpid()}")
    try:
        folder.rename(grave)
    except OSError:
        return
    shutil.rmtree(grave, ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove what killed processes left."""
    for left in home.glob(".*-*"):
        try:
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue


def within_cache(error: OSError) -> bool:
    """Whether it is the cache that could not be written or read, rather than a text."""
    return not error.filename or str(error.filename).startswith(str(cache_dir()))
