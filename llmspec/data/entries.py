"""Content-addressed folders in the user's cache: whole or not there, also when two processes make the same one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.folders import cache_dir, private_folder, sync
from llmspec.core.problems import DataError

ABOUT = "about.json"
SUMMED_WHOLE = 64 * 2**20
"""Files up to this many bytes are compared with their checksum when opened; of longer ones, both ends."""
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
        saved = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if all(_summary(folder / name) == summary for name, summary in saved["files"].items()):
            return Entry(folder, saved["about"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
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
        files = {file.name: _summary(file) for file in sorted(aside.iterdir())}
        (aside / ABOUT).write_text(json.dumps({"files": files, "about": about}), encoding="utf-8")
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
                _discard(home / key)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    entry = find(kind, key)
    if entry is None:
        raise DataError(f"{home / key} cannot be written", "remove it, or set LLMSPEC_CACHE to another folder")
    return entry


def _summary(file: Path) -> list[int]:
    """Size and checksum."""
    size = file.stat().st_size
    with file.open("rb") as f:
        if size <= SUMMED_WHOLE:
            return [size, zlib.crc32(f.read())]
        half = SUMMED_WHOLE // 2
        sum_ = zlib.crc32(f.read(half))
        f.seek(size - half)
        return [size, zlib.crc32(f.read(half), sum_)]


def _discard(folder: Path) -> None:
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
