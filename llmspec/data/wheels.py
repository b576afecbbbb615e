"""Unpacking an archive that nobody has looked at: no path leaves its folder, no links, nothing without a bound."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from llmspec.core.problems import DataError
from llmspec.core.units import size

LARGEST_FOLDER = 2 * 2**30
"""Unpacked bytes, at most."""
MOST_MEMBERS = 100_000
_CHUNK = 1 << 20


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the files of `wheel` into the new `folder`.

    Raises:
        DataError: not a zip archive, a member outside the folder, a link, or more bytes than allowed.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check(wheel.name, members)
            folder.mkdir(parents=True)
            left = LARGEST_FOLDER
            for member in members:
                left = _copy(archive, member, folder / PurePosixPath(member.filename), left)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _unsafe(wheel.name, f"it holds {Path(str(error.filename)).name} twice") from None
    except OSError as error:
        if error.errno is not None:  # of the disk; decompressors of the standard library give none
            raise DataError(
                f"{wheel.name} cannot be unpacked into {folder}: {error.strerror}",
                "make room there, or set LLMSPEC_CACHE to another folder",
            ) from None
        raise DataError(f"{wheel.name} is not a readable wheel: {error}", "take another version") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OverflowError,
    ) as error:
        raise DataError(f"{wheel.name} is not a readable wheel: {error}", "take another version") from None


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; files that vanish meanwhile count nothing."""
    total = 0
    for at, _, names in os.walk(folder):  # unlike a glob, it passes over folders that vanish too
        for name in names:
            try:
                status = Path(at, name).lstat()
            except OSError:
                continue
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _check(name: str, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MOST_MEMBERS:
        raise _unsafe(name, f"it holds more than {MOST_MEMBERS:,} files")
    if sum(member.file_size for member in members) > LARGEST_FOLDER:
        raise _unsafe(name, f"it unpacks to more than {size(LARGEST_FOLDER)}")
    for member in members:
        path = PurePosixPath(member.filename)
        windows = PureWindowsPath(member.filename)
        if path.is_absolute() or ".." in (*path.parts, *windows.parts) or windows.drive or windows.root:
            raise _unsafe(name, f"`{member.filename}` leaves its folder")
        if "\\" in member.filename or "\0" in member.orig_filename:
            raise _unsafe(name, f"`{member.filename!r}` is not a plain file name")
        mode = member.external_attr >> 16
        # Zip writers that know no modes leave 0.
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _unsafe(name, f"`{member.filename}` is a link or a device")


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Write one member; returns how many bytes may still be written. The size in its header is not trusted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as packed, path.open("xb") as out:
        while chunk := packed.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise _unsafe(archive.filename or "", f"it unpacks to more than {size(LARGEST_FOLDER)}")
            out.write(chunk)
    return left


def _unsafe(name: str, why: str) -> DataError:
    return DataError(
        f"the archive {Path(name).name} is not safe to unpack: {why}",
        "take another package",
        "it could fill the disk or overwrite your files",
    )
