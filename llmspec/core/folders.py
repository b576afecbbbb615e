"""Where llmspec keeps what it can make again: one private cache folder for each user."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "LLMSPEC_CACHE"


def cache_dir() -> Path:
    """Return the user's cache folder, made on first use with mode 0700.

    `LLMSPEC_CACHE` names it outright; otherwise it is `llmspec` inside the platform's cache folder
    (`$XDG_CACHE_HOME`, `~/.cache`, or `~/Library/Caches` on macOS).

    Raises:
        OSError: the folder cannot be made.
        PermissionError: it belongs to somebody else, so that code kept in it could not be trusted.
    """
    return private_folder(_cache_path())


def private_folder(folder: Path) -> Path:
    """Make `folder` (0700) if it is missing, close it to other users' writes, and return it.

    What lies in it is later executed or unpickled, so a folder that others own or may write to will not do.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return folder
    status, me = folder.stat(), os.getuid()
    if status.st_uid != me and me != 0:
        raise PermissionError(f"{folder} belongs to another user; set {CACHE_VARIABLE} to a folder of your own")
    if status.st_mode & 0o022:
        folder.chmod(0o700)
    return folder


def _cache_path() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llmspec"
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG rules say that a relative path is to be ignored.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "llmspec"


def sync(path: Path) -> None:
    """Make a file's content, or the renames inside a folder, last through a power cut."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
