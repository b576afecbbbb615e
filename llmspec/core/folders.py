"""Where llmspec keeps what it can make again: one private cache folder for each user.

Code lies in it that is run later, so it is only used where nobody else but root can have written. A folder that was
not made here is taken as it is or refused, never changed.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from llmspec.core.problems import RunError

CACHE_VARIABLE = "LLMSPEC_CACHE"
ELSEWHERE = f"set {CACHE_VARIABLE} to a folder of your own"
OTHERS = stat.S_IWGRP | stat.S_IWOTH


class CacheError(RunError, OSError):
    """The cache folder cannot be made or used, or others can write to it."""


def cache_dir() -> Path:
    """Return the user's cache folder, made on first use with mode 0700.

    `LLMSPEC_CACHE` names it outright; otherwise it is `llmspec` inside the platform's cache folder
    (`$XDG_CACHE_HOME`, `~/.cache`, or `~/Library/Caches` on macOS). Inside a folder for everybody, such as /tmp, it is
    a folder of the user's own.

    Raises:
        CacheError: it cannot be made, or others can write to it, so that code kept in it could not be trusted.
    """
    path = _cache_path()
    if sys.platform != "win32" and _for_everybody(path):
        path = path / f"llmspec-{os.getuid()}"
    return private_folder(path)


def private_folder(folder: Path) -> Path:
    """Make `folder` and its missing parents (0700), and return it where it and all above it are safe from others.

    Raises CacheError. An existing folder keeps its mode.
    """
    try:
        for place in (*reversed(folder.parents), folder):
            if not place.is_dir():
                place.mkdir(mode=0o700, exist_ok=True)
        strange = "" if sys.platform == "win32" else _stranger(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        place = getattr(error, "filename", None) or folder
        raise CacheError(
            f"{place} cannot be used as a cache folder: {reason}",
            ELSEWHERE,
            "kernels, tokens and downloads would have no place to be kept",
        ) from error
    if strange:
        raise CacheError(strange, ELSEWHERE, "code kept below it is run later, and others could put theirs there")
    return folder


def read_private(path: Path) -> bytes:
    """What a file holds that only this user, or root, can have written. Raises OSError for any other."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        if sys.platform != "win32" and (status.st_uid not in (0, os.getuid()) or status.st_mode & OTHERS):
            raise PermissionError(errno.EPERM, "others can write it", str(path))
        return file.read()


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """Write a whole file or none, also through a power cut: readers see the old or the new content, never a part."""
    import tempfile

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
        sync(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Make a file's content, or the renames inside a folder, last through a power cut."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cache_path() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    try:
        if named:
            return Path(named).expanduser().absolute()
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The XDG rules say that a relative path is to be ignored.
        if sys.platform != "darwin" and shared.is_absolute():
            return shared / "llmspec"
        home = Path.home()
    except RuntimeError as error:  # a user whom the system does not know, as containers have
        what = f"{CACHE_VARIABLE}={named}" if named else "HOME is not set, and this user"
        raise CacheError(f"{what} names no home folder", ELSEWHERE, "there would be no place for a cache") from error
    if not home.is_absolute() or not home.is_dir():
        raise CacheError(
            f"the home folder {home} does not exist", f"set HOME, or {ELSEWHERE}", "there would be no place for a cache"
        )
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "llmspec"


# -- who can write ---------------------------------------------------------------------------------------------------
def _for_everybody(path: Path) -> bool:
    """Whether a folder is shared on purpose: everybody may write there, and nobody can take away what others wrote."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX and mode & OTHERS)


def _stranger(folder: Path) -> str:
    """Why others may have written to a folder, or can exchange it: the first such place above it; '' where none is."""
    me, last = (0, os.getuid()), (folder, folder.resolve())
    for place in _above(folder):
        status = os.lstat(place)
        if status.st_uid not in me and (place in last or not _unknown_owner(status.st_uid)):
            return f"{place} belongs to {_user(status.st_uid)}, not to {_user(os.getuid())}"
        if stat.S_ISLNK(status.st_mode) or not status.st_mode & OTHERS:
            continue
        if status.st_mode & stat.S_ISVTX and place not in last:
            continue
        if status.st_mode & stat.S_IWOTH or not _private_group(status):
            return f"{place} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _above(folder: Path) -> Iterator[Path]:
    """A folder and all above it, as named and as they really lie."""
    real = folder.resolve()
    yield from dict.fromkeys((real, *real.parents, folder, *folder.parents))


def _private_group(status: os.stat_result) -> bool:
    """Whether the group of a folder is its owner's alone, as many systems make one for each user."""
    import grp
    import pwd

    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return False
    return group.gr_name == owner and set(group.gr_mem) <= {owner}


def _unknown_owner(uid: int) -> bool:
    """Whether an owner is one whom this container cannot name: what lies above its own folders, outside of it."""
    try:
        everybody = Path("/proc/self/uid_map").read_text().split()[-1] == "4294967295"
        return not everybody and uid == int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError, IndexError):
        return False


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
