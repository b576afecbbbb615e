"""Files opened without trust: only regular ones, never waited for, never more of them than asked for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
}
"""What a path can be instead of a file, by the type in its mode."""


class NotRegular(OSError):
    """The path names no regular file; `strerror` says what it is: `a pipe, not a file`."""


class TooLarge(OSError):
    """The file has more bytes than its reader takes; `size` is how many."""

    size = 0


def open_regular(path: Path | str, *, links: bool = True) -> BinaryIO:
    """A regular file, open for reading. A pipe without a writer is not waited for, a device not touched.

    Args:
        path: the file.
        links: whether a symbolic link at the end of the path is followed.

    Raises:
        NotRegular: a folder, pipe, socket or device; a link where `links` is off.
        OSError: as `open` does.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags if links else flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        # What a socket, a link that is not followed, a device without a driver or a folder (Windows) answer.
        mode = _mode(path, links)
        if mode is not None and not stat.S_ISREG(mode) and error.errno != errno.EACCES:
            raise _not_regular(path, mode) from error
        raise
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise _not_regular(path, mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, most: int, *, links: bool = True) -> bytes:
    """All of a regular file of at most `most` bytes. Raises TooLarge, and what `open_regular` raises."""
    with open_regular(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        raw = file.read(size + 1) if size <= most else b""  # more at once would be allocated, however short the file
        if len(raw) > size:  # it has grown, or is of those whose size the system does not say
            raw += file.read(most - size)
    if size > most or len(raw) > most:
        error = TooLarge(errno.EFBIG, f"has {max(size, len(raw)):,} bytes, and {most:,} are read at most", str(path))
        error.size = max(size, len(raw))
        raise error
    return raw


def _mode(path: Path | str, links: bool) -> int | None:
    try:
        return (os.stat if links else os.lstat)(path).st_mode
    except OSError:
        return None


def _not_regular(path: Path | str, mode: int) -> NotRegular:
    return NotRegular(errno.EINVAL, f"{KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file", str(path))
