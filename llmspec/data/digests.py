"""Hashes of the user's files, remembered in one index for each source, so that unchanged files are not read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from llmspec.core.folders import cache_dir, private_folder
from llmspec.core.hashing import digest
from llmspec.core.problems import DataError
from llmspec.core.regular import read_regular
from llmspec.parts.sources.base import Fetcher, Found
from llmspec.parts.sources.notes import Problems
from llmspec.parts.sources.opening import opened

LARGEST = 1 << 30
"""Bytes of an index, at most."""
_RACY = 2_000_000_000
"""Nanoseconds after a change within which a file could change again and keep its times."""
_SAVED = 20.0
"""Seconds between two writings of the index while files are hashed."""
_TOLD = 0.1
"""Seconds between two reports."""

Index = dict[str, list[int | str]]
"""Path -> state of the file (size, two times, inode), and its hash."""


def digests(files: Sequence[Found], base: Path, patterns: Sequence[str], fetch: Fetcher) -> list[str]:
    """sha256 (hex) of every file. Their index is read once, and written anew where something changed.

    Raises:
        DataError: the files that cannot be read, the first few in words.
    """
    index = private_folder(cache_dir() / "indexes") / digest([os.path.abspath(base), *patterns])
    known = _load(index)
    fresh = [found for found in files if known.get(found.path, ())[:4] != list(found.state)]
    if not fresh:
        return [str(known[found.path][4]) for found in files]
    hashing = _Hashing(index, known, fetch, sum(found.state[0] for found in fresh), len(files))
    try:
        computed = hashing.all(fresh)
    finally:
        hashing.save({found.path for found in files})
    return [computed.get(found.path) or str(known[found.path][4]) for found in files]


class _Hashing:
    """Hashes what the index does not know."""

    def __init__(self, index: Path, known: Index, fetch: Fetcher, total: int, files: int) -> None:
        self.index, self.known, self.fetch = index, known, fetch
        self.done, self.total, self.files = 0, total, files
        self.saved = self.told = time.monotonic()
        self.problems = Problems()

    def all(self, fresh: Sequence[Found]) -> dict[str, str]:
        """Path -> hash; what is certain to stay is added to the index."""
        computed: dict[str, str] = {}
        for found in fresh:
            try:
                computed[found.path] = self.one(found)
            except DataError as error:
                self.problems.add(*error.problems)
            if time.monotonic() - self.saved > _SAVED:
                self.save(None)
        self.problems.check()
        return computed

    def one(self, found: Found) -> str:
        hashed = hashlib.sha256()
        for piece in opened(found, hashed):
            self.done += len(piece)
            if (now := time.monotonic()) - self.told > _TOLD:
                self.told = now
                self.fetch.progress(f"hashing {self.files:,} file{'s' * (self.files > 1)}", self.done, self.total)
        self.known.pop(found.path, None)
        # A file changed within the clock's tick could change again and keep its times.
        if time.time_ns() - max(found.state[1:3]) > _RACY and _state(found.path) == found.state:
            self.known[found.path] = [*found.state, hashed.hexdigest()]
        return hashed.hexdigest()

    def save(self, kept: set[str] | None) -> None:
        """Write the index aside and rename it; with `kept`, other files are forgotten."""
        self.saved = time.monotonic()
        files = self.known if kept is None else {path: found for path, found in self.known.items() if path in kept}
        body = json.dumps(files, separators=(",", ":"))
        aside = self.index.with_name(f".{self.index.name}.{os.getpid()}")
        try:
            aside.write_text(f"{zlib.crc32(body.encode()):08x}\n{body}", encoding="utf-8")
            aside.replace(self.index)
        except OSError:  # a full disk: the files are hashed again next time, and whoever needs the space will say so
            aside.unlink(missing_ok=True)


def _load(index: Path) -> Index:
    """The index; empty where there is none or it is damaged."""
    try:
        checksum, _, body = read_regular(index, LARGEST).decode("utf-8").partition("\n")
        if int(checksum, 16) != zlib.crc32(body.encode()):
            return {}
        found = json.loads(body)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
