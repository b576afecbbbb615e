"""What lies in runs, and in the cache folder, that nothing needs any more: found, and freed where that is asked for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmspec.core import run_names
from llmspec.core.disk import real_folder
from llmspec.core.problems import RunError
from llmspec.runs.elsewhere import kept_twice, missing_keys
from llmspec.runs.files import disk_errors
from llmspec.runs.run import PhaseFolder, RunFolder

CACHED = ("kernels", "programs", "tokens", "tokenizers", "formats", "gguf", "downloads", "wheels")
"""Folders of the cache whose entries can all be made, or fetched, again."""
DAY = 86_400


@dataclass(frozen=True)
class Garbage:
    """Something that can go."""

    path: Path
    bytes: int
    why: str


@dataclass(frozen=True)
class Needed:
    """What the specs of a folder need."""

    keys: frozenset[str] = frozenset()
    """Keys of their phases."""
    names: frozenset[str] = frozenset()
    """Names of phases whose keys cannot be known now: all that bears one of them stays."""
    everything: str = ""
    """Why nothing of any run can go; '' where it can."""
    notes: tuple[str, ...] = field(default=())
    """What is said of specs whose keys are not known."""


def in_runs(runs: Path, needed: Needed) -> list[Garbage]:
    """What no spec needs in a run, or in the runs below a folder: phases that were set aside, phases that the run's
    plan has no more, and what a process left half-written. What a run holds of its own plan always stays."""
    if needed.everything:
        return []
    one = (runs / "plan.json").is_file()
    places = [runs] if one else sorted(p.parent for p in runs.glob("*/plan.json"))
    waiting = missing_keys(Path(os.path.abspath(runs)).parent if one else runs)
    needed = replace(needed, keys=needed.keys | set(waiting))  # another run would take them from here
    return [found for place in places for found in in_run(RunFolder(place), needed)]


def in_run(run: RunFolder, needed: Needed) -> Iterator[Garbage]:
    """The same of one run; nothing of one whose plan cannot be read."""
    try:
        plan = run.plan()
    except RunError:
        return
    own = {p.name for p in plan.phases}
    keys = needed.keys | {p.key for p in plan.phases}
    for path in sorted(run.path.iterdir()):
        if not real_folder(path) or path.name in own or not (path / "phase.json").is_file():
            continue
        name = path.name.partition(".")[0]
        name = next((p for p in (*own, *needed.names) if run_names.is_aside(path.name, p)), name)
        try:
            key = PhaseFolder(path).about.get("key")
        except RunError:
            continue
        if not isinstance(key, str) or key in keys or name in needed.names or path.name in needed.names:
            continue
        aside = any(run_names.is_aside(path.name, p) for p in own)
        why = "trained with settings that no spec has" if aside else "of a phase that no spec has"
        twice = kept_twice(run.path, name, key)
        why += f"; {twice} has the same" if twice else "; whoever goes back to them trains anew" if aside else ""
        yield Garbage(path, size_of(path), why)
    if (left := run.path / run_names.CERTIFYING).is_dir():
        yield Garbage(left, size_of(left), "left by a certificate that was cut short")
    for name in sorted(own):
        for left in sorted((run.path / name).glob(".step_*")):
            yield Garbage(left, size_of(left), "a checkpoint that was never finished")


def in_cache(cache: Path, older_than: float | None, most: int | None) -> list[Garbage]:
    """Entries of the cache folder that nobody has used for `older_than` days, and the oldest of the rest until no more
    than `most` bytes are left."""
    entries = [
        (used(path), path, size_of(path))
        for kind in CACHED
        if real_folder(cache / kind)
        for path in sorted((cache / kind).iterdir())
        if not path.is_symlink() and not path.name.startswith(".")
    ]
    found, left = [], sum(size for _, _, size in entries)
    for when, path, size in sorted(entries):
        days = (time.time() - when) / DAY
        old = older_than is not None and days > older_than
        if old or (most is not None and left > most):
            why = f"not used for {days:.0f} days" if old else "the oldest of a cache that is larger than asked for"
            found.append(Garbage(path, size, why))
            left -= size
    return found


def freed(found: Iterable[Garbage]) -> tuple[list[Garbage], list[str]]:
    """Removes what was found; (what is gone, notices about what is not). A run in which a process trains is left."""
    gone, notices = list[Garbage](), list[str]()
    for garbage in found:
        run = next((p for p in garbage.path.parents[:2] if (p / "plan.json").is_file()), None)
        try:
            with disk_errors(garbage.path):
                if run is None:
                    _remove(garbage.path)
                else:
                    with RunFolder(run).alone():
                        _remove(garbage.path)
            gone.append(garbage)
        except RunError as e:
            notices.append(f"{garbage.path} stays: {e.problems[0].message}")
    return gone, notices


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _files(path: Path) -> Iterator[os.stat_result]:
    if not path.is_dir():
        yield path.lstat()
        return
    for folder, _, names in os.walk(path):
        for name in names:
            yield os.lstat(os.path.join(folder, name))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(status.st_size for status in _files(path))


def used(path: Path) -> float:
    """When something in it was read or written last, in seconds of the clock."""
    return max((max(s.st_mtime, s.st_atime) for s in _files(path)), default=path.lstat().st_mtime)
