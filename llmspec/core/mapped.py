"""Files of weights, mapped into memory: whoever reads much of one asks first whether it is still whole, since pages
behind the end of a file that was cut meanwhile end the process (SIGBUS), and no exception says so."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, BinaryIO

from llmspec.core.problems import RunError


class MappedFile(mmap.mmap):
    """All of a file, from its first byte on."""

    path: Path
    """What messages call it."""


def mapped(file: BinaryIO, path: Path, access: int = mmap.ACCESS_READ) -> MappedFile:
    """An open file in memory; it may be closed afterwards. Raises OSError, ValueError for an empty one."""
    made = MappedFile(file.fileno(), 0, access=access)
    made.path = path
    return made


def map_under(data: Any) -> mmap.mmap | None:
    """The map in which an array, or a buffer of bytes, lies; None for memory that is no file's."""
    while not isinstance(data, mmap.mmap | None):
        data = data.obj if isinstance(data, memoryview) else getattr(data, "base", None)
    return data


def check_whole(data: Any) -> None:
    """Raises RunError where an array, or a buffer, lies in a MappedFile that is shorter now than when it was opened.

    A file that another one has replaced under its name stays what it was, and is whole.
    """
    found = map_under(data)
    if isinstance(found, MappedFile) and (size := found.size()) < len(found):
        raise RunError(
            f"{found.path} had {len(found):,} bytes when it was opened, and has {size:,} now",
            hint="put it back as it was and open it again; a file that is in use may be replaced, not written over",
            consequence="what lay behind its end is gone",
        )
