"""A run's files: either whole or absent when written, and believed in nothing when read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmspec.core import strict_json
from llmspec.core.disk import explained, open_plain, read_bytes, reading
from llmspec.core.folders import sync
from llmspec.core.problems import Problem, RunError, WriteError
from llmspec.runs.notes import Row

LARGEST = 256 << 20
"""Bytes of a JSON file, at most."""
LONGEST = 16 << 20
"""Bytes of a row, at most."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder aside to write into, which is `path` once it is whole, and gone where it is not.

    Raises RunError where something stands there already, or it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if os.path.lexists(path) and not (path.is_dir() and not os.listdir(path)):
            raise RunError(
                f"{path} is there already",
                hint="name a folder that is absent or empty",
                consequence="what is there would have been overwritten",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.mkdir()
            yield aside
            sync(aside)
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()
            aside.rename(path)
            sync(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as e:
        raise RunError(explained(e, path, "give another folder")) from e


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system says about writing into something a person can act on."""
    try:
        yield
    except OSError as e:
        problem = explained(e, path, "give another folder with --out")
        raise WriteError(
            Problem(
                problem.message if problem.message.startswith("the disk") else f"cannot be written: {problem.message}",
                hint=f"{problem.hint}; then run the same command again",
                consequence="nothing that was saved is lost: the run resumes from its last checkpoint",
            )
        ) from e


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system says about reading into something a person can act on."""
    try:
        yield
    except OSError as e:
        raise RunError(explained(e, path)) from e


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content in one step. Raises RunError."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, raw: bytes) -> None:
    """The same of bytes."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        try:
            with os.fdopen(open_plain(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as f:
                f.write(raw)
                f.flush()
                os.fsync(f.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()  # the room it takes is what others lack
            raise
        sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all. Raises RunError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Raises RunError where the file is missing, no plain file, too large, not to be read, or not UTF-8."""
    with read_errors(path):
        try:
            return read_bytes(path, LARGEST).decode()
        except FileNotFoundError:
            raise RunError(f"{path} is missing") from None
        except UnicodeDecodeError:
            raise RunError(f"{path} is damaged: it is not UTF-8") from None


def read_json(path: Path) -> Any:
    """Raises RunError where the file is missing or damaged."""
    text = read_text(path)
    try:
        return strict_json.loads(text)
    except ValueError as e:
        raise RunError(f"{path} is damaged: {e}") from None


def read_table(path: Path) -> dict[str, Any]:
    """A JSON object; {} where the file is not there yet. Raises RunError."""
    if not os.path.lexists(path):
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: it holds no table of names and values")
    return found


class Rows:
    """A file of JSON lines that grows, each with its `step`; what a crash leaves half-written is cut when it is opened
    again. A line ends at a line feed and nowhere else: texts may hold every other break as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every whole row; lines that are none are left out. Raises RunError where the file cannot be read."""
        return [row for _, row in self._lines() if row is not None]

    def cut(self, last_step: int) -> int:
        """Keeps only the rows up to a step, byte for byte; returns how many lines within the file were no rows.

        The last line is not counted: a crash may have left it half-written.
        """
        kept, bad, last_bad = [], 0, False
        for line, row in self._lines():
            last_bad = row is None
            bad += last_bad
            if row is not None and row["step"] <= last_step:
                kept.append(line)
        write_text(self.path, b"".join(kept).decode())
        return bad - last_bad

    def append(self, row: dict[str, Any]) -> None:
        with disk_errors(self.path):
            handle = open_plain(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            with os.fdopen(handle, "ab") as f:
                f.write((json.dumps(row, ensure_ascii=False) + "\n").encode(errors="replace"))

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        """(line with its end, row or None where it is none)."""
        if not os.path.lexists(self.path):
            return
        with read_errors(self.path), reading(self.path) as f:
            while line := f.readline(LONGEST):
                if len(line) == LONGEST:
                    raise RunError(f"{self.path} is damaged: it has a line of more than {LONGEST:,} bytes")
                yield line if line.endswith(b"\n") else line + b"\n", _row(line)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = strict_json.loads(line)
        Row.model_validate(found)
    except ValueError:
        return None
    return found
