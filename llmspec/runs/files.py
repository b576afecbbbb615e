"""Files that are either whole or absent: written aside, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmspec.core.folders import sync
from llmspec.core.problems import RunError
from llmspec.core.units import size


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system says about writing into something a person can act on."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            free = size(shutil.disk_usage(path if path.exists() else path.parent).free)
            raise RunError(f"the disk is full: {path} could not be written ({free} free)",
                           hint="free some space, or give another folder with --out, and run the same command again",
                           consequence="nothing is lost: the run goes on from its last checkpoint") from e
        if e.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            raise RunError(f"{path} cannot be written: {e.strerror}", hint="choose another place with --out") from e
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content in one step."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with aside.open("w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        aside.replace(path)
        sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises RunError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (ValueError, OSError) as e:
        raise RunError(f"{path} is damaged: {e}") from e


class Rows:
    """A file of JSON lines that grows; what a crash leaves half-written is cut when it is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every whole row."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text("utf-8", errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break  # only the last line can be half-written
        return rows

    def cut(self, last_step: int) -> None:
        """Keeps only the rows up to a step."""
        kept = [r for r in self.read() if r["step"] <= last_step]
        write_text(self.path, "".join(self._line(r) for r in kept))

    def append(self, row: dict[str, Any]) -> None:
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as f:
            f.write(self._line(row))

    @staticmethod
    def _line(row: dict[str, Any]) -> str:
        return json.dumps(row, ensure_ascii=False) + "\n"
