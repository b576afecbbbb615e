"""Checkpoints: weights and optimizer state as safetensors, the place in training as JSON, and a digest of each."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llmspec.core.disk import explained, read_bytes, reading, real_folder
from llmspec.core.folders import sync
from llmspec.core.hashing import stream_digest
from llmspec.core.problems import RunError
from llmspec.parts.phases.course import LAST
from llmspec.runs import tensors
from llmspec.runs.files import LARGEST, disk_errors, read_json, write_json

WEIGHTS, STATE, CURSOR, MANIFEST = "weights.safetensors", "optimizer.safetensors", "cursor.json", "manifest.json"
TASK = "task.safetensors"
"""Arrays that are state of a phase kind's task, where it has any."""
BY_CLOCK = "by_clock"
"""Says in a cursor that the checkpoint was written because the one before was old; the next one replaces it."""
T = TypeVar("T")


class Damaged(Exception):
    """A checkpoint whose files are not what was written; its text says which and how."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. Its arrays are read with the names and shapes that they must have."""

    folder: Path
    step: int

    def weights(self, expected: tensors.Shapes) -> dict[str, Any]:
        """Name -> float32 array. Raises Damaged, and RunError where they are whole but of another model."""
        return self._arrays(WEIGHTS, expected)

    def state(self, expected: tensors.Shapes) -> dict[str, Any]:
        """`<weight>:<state>` -> float32 array. Raises as `weights`."""
        return self._arrays(STATE, expected)

    def task(self, expected: tensors.Shapes) -> dict[str, Any]:
        """Name -> float32 array of the task's state; nothing where nothing is expected. Raises as `weights`."""
        return self._arrays(TASK, expected) if expected else {}

    def cursor(self) -> dict[str, Any]:
        """Step, phase key, and the task's state. Raises RunError where it is none."""
        path = self.folder / CURSOR
        found = read_json(path)
        types = {"step": int, "key": str, "task": dict, "course": dict, BY_CLOCK: bool}
        if not isinstance(found, dict):
            raise RunError(f"{path} is damaged: it holds no table of names and values")
        if wrong := [name for name, kind in types.items() if name in found and type(found[name]) is not kind]:
            raise RunError(f"{path} is damaged: {', '.join(wrong)} is not what it should be")
        return found

    def check(self, most: int | None = None) -> None:
        """Compares every file with its digest. Raises Damaged, also where one has more than `most` bytes of arrays."""
        for name in (WEIGHTS, STATE, CURSOR, *([TASK] if os.path.lexists(self.folder / TASK) else [])):
            self._compare(name, self._digest(name, most))

    def _digest(self, name: str, most: int | None) -> str:
        with _reading(self.folder / name), reading(self.folder / name) as f:
            found = os.fstat(f.fileno()).st_size
            if most is not None and found > most + tensors.HEADER:
                raise Damaged(f"{name} has {found:,} bytes, and the plan's arrays take {most:,}")
            return stream_digest(f)

    def belongs(self, key: str) -> None:
        """Compares its cursor with its folder's name and the phase's `key`. Raises Damaged, and RunError where it is
        another phase's or another step's."""
        with _reading(self.folder / CURSOR):
            self._compare(CURSOR, hashlib.sha256(read_bytes(self.folder / CURSOR, LARGEST)).hexdigest())
        found = self.cursor()
        if found.get("step") != self.step:
            raise _foreign(
                self.folder,
                f"it was saved after step {found.get('step')}, and its folder says {self.step}",
                "rename it to the step it is of, or remove it",
            )
        if key and found.get("key") != key:
            raise _foreign(
                self.folder,
                "it is of another run, or of another phase: its key is "
                f"{str(found.get('key'))[:8]}, and the plan's is {key[:8]}",
                "put back the folder that belongs there, or remove it",
            )

    def _arrays(self, name: str, expected: tensors.Shapes) -> dict[str, Any]:
        path = self.folder / name
        with _reading(path):
            try:
                found, hashed = tensors.read(path, expected)
            except tensors.WrongTensors as e:
                # Damage is the likelier cause, and said first.
                self._compare(name, self._digest(name, 4 * sum(map(math.prod, expected.values()))))
                raise _foreign(path, str(e), "put back the file that belongs there, or remove the checkpoint") from None
        self._compare(name, hashed)
        return found

    def _compare(self, name: str, found: str) -> None:
        try:
            manifest = read_json(self.folder / MANIFEST)
        except RunError as e:
            if isinstance(e.__cause__, PermissionError):
                raise
            raise Damaged(e.problems[0].message) from None
        if not isinstance(manifest, dict) or manifest.get(name) != found:
            raise Damaged(f"{name} does not have the digest that was written with it")


def _foreign(path: Path, why: str, hint: str) -> RunError:
    return RunError(
        f"{path} does not belong here: {why}",
        hint=hint,
        consequence="training would resume from wrong weights",
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What the system says while a checkpoint is read: no access is the user's to mend, everything else is damage."""
    try:
        yield
    except PermissionError as e:
        raise RunError(explained(e, path)) from e
    except OSError as e:
        raise Damaged(explained(e, path).message) from e


Arrays = dict[str, Any]


def save(
    phase: Path,
    step: int,
    weights: Arrays,
    state: Arrays,
    cursor: dict[str, Any],
    task: Arrays | None = None,
    last: int = LAST,
) -> Path:
    """Writes `step_N` aside, syncs, renames; then drops all but the newest `last` and what these say is best, and any
    BY_CLOCK but the newest. Raises RunError."""
    target, aside = phase / f"step_{step}", phase / f".step_{step}.{os.getpid()}"
    with disk_errors(phase):
        phase.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            manifest = {WEIGHTS: tensors.write(aside / WEIGHTS, weights), STATE: tensors.write(aside / STATE, state)}
            if task:
                manifest[TASK] = tensors.write(aside / TASK, task)
            write_json(aside / CURSOR, {"step": step, **cursor})
            with reading(aside / CURSOR) as f:
                manifest[CURSOR] = stream_digest(f)
            write_json(aside / MANIFEST, manifest)
            sync(aside)
            if target.exists():
                shutil.rmtree(target)
            aside.rename(target)
            sync(phase)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        there = list(_steps(phase))
        cursors = {number: _cursor(folder) for number, folder in there}
        kept = [n for n, _ in there if n == there[0][0] or not cursors[n].get(BY_CLOCK)][:last]
        named = {best for number in kept for best in _best_steps(cursors[number])}
        for number, old in there:
            if number not in kept and number not in named:
                shutil.rmtree(old)
        for leftover in phase.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return target


def _cursor(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; {} where it cannot be read."""
    try:
        found = read_json(folder / CURSOR)
    except (RunError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _best_steps(cursor: dict[str, Any]) -> set[int]:
    """Steps of the checkpoints that one names as the best; none where that cannot be read."""
    try:
        return {int(best["step"]) for best in cursor.get("course", {}).get("best", ())}
    except (AttributeError, KeyError, TypeError, ValueError):
        return set()


def _steps(phase: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder), newest first. Raises RunError where the phase's folder cannot be read."""
    if os.path.lexists(phase) and not real_folder(phase):
        raise _foreign(phase, "it is not a folder that a run has written", "remove it")
    try:
        names = os.listdir(phase) if real_folder(phase) else []
    except OSError as e:
        raise RunError(explained(e, phase)) from e
    found = [
        (int(name[5:]), phase / name)
        for name in names
        if name.startswith("step_") and name[5:].isascii() and name[5:].isdigit()
    ]
    yield from sorted(found, reverse=True)


def newest(phase: Path, key: str = "", most: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint of a phase, and a notice for each damaged one that was passed over; no file of it
    has more than `most` bytes of arrays.

    Raises RunError where one is whole but not of this phase (by its `key`), or may not be read.
    """
    found, notices = attempt(phase, key, lambda saved: saved.check(most))
    return (found[0] if found else None), notices


def attempt(phase: Path, key: str, use: Callable[[Checkpoint], T]) -> tuple[tuple[Checkpoint, T] | None, list[str]]:
    """The newest checkpoint that `use` finds sound, with what it made of it; and notices, as `newest`."""
    wrong: list[tuple[Path, str]] = []
    for step, folder in _steps(phase):
        if not real_folder(folder) or folder.name != f"step_{step}":
            raise _foreign(folder, "it is not a folder that a run has written", "remove it")
        saved = Checkpoint(folder, step)
        try:
            saved.belongs(key)
            return (saved, use(saved)), [_passed_over(*one, f"{folder.name} is used instead") for one in wrong]
        except Damaged as e:
            wrong.append((folder, str(e)))
    return None, [_passed_over(*one, "and no other is left") for one in wrong]


def _passed_over(folder: Path, why: str, instead: str) -> str:
    return f"checkpoint {folder} is damaged ({why}); {instead}"
