"""Files that nobody vouches for, opened without trust; and what the operating system says of any, in plain words."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from llmspec.core.problems import Problem
from llmspec.core.regular import KINDS, NotRegular, TooLarge, open_regular, read_regular
from llmspec.core.units import size

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write says when there is no room for it: on the disk, in a quota, or within a file-size limit."""
SMALLEST = 64 << 10
"""Free bytes below which a disk counts as full; where more is free, it is something else that has run out."""


def explained(error: OSError, path: Path | str | None = None, hint: str = "") -> Problem:
    """What went wrong with a file and what to do about it; `hint` says how to choose another place for it."""
    named = Path(path or os.fsdecode(error.filename or "a file"))
    if isinstance(error, NotRegular | TooLarge):
        return Problem(f"{named}: it {'is ' if isinstance(error, NotRegular) else ''}{error.strerror}", hint=hint)
    number = error.errno or 0
    if number in NO_ROOM or (not number and "written" in str(error)):  # numpy's short writes carry no number
        return _no_room(named, number, hint)
    if number in (errno.EACCES, errno.EPERM):
        return Problem(
            f"{named}: permission denied{_owner(named)}",
            hint=_joined("let its owner give you access (chmod, chown)", hint),
        )
    if number == errno.EROFS:
        return Problem(f"{named}: its file system is read-only", hint=_joined("mount it for writing", hint))
    if number == errno.EIO:
        return Problem(
            f"{named}: the disk or its connection reports an input/output error",
            hint=_joined("look at the system's log (dmesg): the disk may be failing", hint),
        )
    said = SAID.get(number) or error.strerror or str(error) or type(error).__name__
    return Problem(f"{named}: {said[:1].lower()}{said[1:]}", hint=hint)


SAID = {
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.ELOOP: "it is a symbolic link, which is not followed here",
    errno.ENAMETOOLONG: "its name is too long for this file system",
    errno.EMFILE: "this process has too many files open (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.ENXIO: "it is a socket or a device, not a file",
    errno.EISDIR: "it is a folder, not a file",
    errno.ESTALE: "the network file system has lost it",
}


def _joined(*hints: str) -> str:
    return ", or ".join(h for h in hints if h)


def _no_room(path: Path, number: int, hint: str) -> Problem:
    if number == errno.EDQUOT:
        return Problem(
            f"the disk quota is used up: {path} could not be written",
            hint=_joined("delete some of your files or ask for a larger quota", hint),
        )
    if number == errno.EFBIG:
        return Problem(
            f"{path} would be larger than a file may be here",
            hint=_joined("raise the limit (`ulimit -f unlimited`)", hint),
        )
    place = next((p for p in (path, *path.parents) if p.exists()), Path())
    free = shutil.disk_usage(place).free
    nodes = os.statvfs(place) if hasattr(os, "statvfs") else None
    if free > SMALLEST and nodes is not None and nodes.f_files and not nodes.f_favail:
        return Problem(
            f"the disk is full: {path} could not be written, since its file system holds as many files as "
            f"it can ({size(free)} free)",
            hint=_joined("delete some files there", hint),
        )
    return Problem(
        f"the disk is full: {path} could not be written ({size(free)} free)", hint=_joined("free some space", hint)
    )


def _owner(path: Path) -> str:
    """Whose a file is, and its mode, where that can be told."""
    if sys.platform == "win32":
        return ""
    try:
        found = path.lstat()
    except OSError:
        return ""
    import pwd

    try:
        name = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        name = str(found.st_uid)
    whose = "you" if found.st_uid == os.geteuid() else f"user {name}"
    return f" (it belongs to {whose}, mode {stat.S_IMODE(found.st_mode):04o})"


# -- opening without trust ----------------------------------------------------------------------------------------
def open_plain(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of a regular file that may be made: links are not followed, pipes and devices neither wait nor open.

    Raises:
        OSError: it is no such file, or cannot be opened; `strerror` says so in plain words.
    """
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags, mode)
    except OSError as e:
        raise OSError(e.errno, SAID.get(e.errno or 0, e.strerror), str(path)) from None
    if not stat.S_ISREG(kind := os.fstat(handle).st_mode):
        os.close(handle)
        raise NotRegular(errno.EINVAL, f"{KINDS.get(stat.S_IFMT(kind), 'something else')}, not a file", str(path))
    return handle


def reading(path: Path) -> BinaryIO:
    """A regular file opened for reading; a link to one is none. Raises OSError."""
    return open_regular(path, links=False)


def read_bytes(path: Path, most: int) -> bytes:
    """All of a regular file of at most `most` bytes; a link to one is none. Raises OSError."""
    return read_regular(path, most, links=False)


def real_folder(path: Path) -> bool:
    """Whether a folder is there, and not only a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
