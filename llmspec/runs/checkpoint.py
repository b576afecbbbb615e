"""Checkpoints: weights and optimizer state as safetensors, cursor and ledger as JSON, and a digest of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmspec.core.folders import sync
from llmspec.core.hashing import file_digest
from llmspec.core.problems import RunError
from llmspec.runs.files import disk_errors, read_json, write_json

WEIGHTS, STATE, CURSOR, MANIFEST = "weights.safetensors", "optimizer.safetensors", "cursor.json", "manifest.json"
KEPT = 2
"""Checkpoints kept of a phase: should the newest be damaged, the one before it serves."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, its digests checked."""

    folder: Path
    step: int

    def weights(self) -> dict[str, Any]:
        """Name -> numpy array."""
        return _load(self.folder / WEIGHTS)

    def state(self) -> dict[str, Any]:
        """`<weight>:<state>` -> numpy array."""
        return _load(self.folder / STATE)

    def cursor(self) -> dict[str, Any]:
        return read_json(self.folder / CURSOR)


def _load(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def save(phase: Path, step: int, weights: dict[str, Any], state: dict[str, Any], cursor: dict[str, Any]) -> Path:
    """Writes `step_N` aside, syncs, renames; then drops what is older than the last KEPT. Raises RunError."""
    from safetensors.numpy import save_file

    target, aside = phase / f"step_{step}", phase / f".step_{step}.{os.getpid()}"
    with disk_errors(phase):
        phase.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            save_file(weights, aside / WEIGHTS)
            save_file(state, aside / STATE)
            write_json(aside / CURSOR, {"step": step, **cursor})
            write_json(aside / MANIFEST, {f.name: file_digest(f) for f in sorted(aside.iterdir())})
            for file in aside.iterdir():
                sync(file)
            sync(aside)
            if target.exists():
                shutil.rmtree(target)
            aside.rename(target)
            sync(phase)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        for _, old in list(_steps(phase))[KEPT:]:
            shutil.rmtree(old)
        for leftover in phase.glob(".step_*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return target


def _steps(phase: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder), newest first."""
    found = [(int(f.name[5:]), f) for f in phase.glob("step_*") if f.name[5:].isdigit() and f.is_dir()]
    yield from sorted(found, reverse=True)


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, or ''."""
    try:
        manifest = read_json(folder / MANIFEST)
        for name in (WEIGHTS, STATE, CURSOR):
            if file_digest(folder / name) != manifest[name]:
                return f"{name} does not have the digest that was written with it"
    except (RunError, OSError, KeyError, TypeError, AttributeError) as e:
        return str(e) or type(e).__name__
    return ""


def newest(phase: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint of a phase, and a notice for each damaged one that was passed over."""
    notices: list[str] = []
    for step, folder in _steps(phase):
        wrong = damage(folder)
        if not wrong:
            return Checkpoint(folder, step), notices
        notices.append(f"checkpoint {folder} is damaged ({wrong}); the one before it is used")
    return None, notices
