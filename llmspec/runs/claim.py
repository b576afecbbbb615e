"""Before a run touches its folder: whether it may, whether there is room, and that nobody else writes there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.compiler.updates import state_numbers
from llmspec.core import strict_json
from llmspec.core.disk import open_plain, read_bytes, real_folder
from llmspec.core.problems import RunError
from llmspec.core.run_names import LOCK_FILE, OURS
from llmspec.core.units import size
from llmspec.runs.files import LARGEST, disk_errors

OF_A_PHASE = ("phase.json", "metrics.jsonl", "timing.jsonl", "samples.jsonl", "answers.json")
PLANS = {"name", "seed", "model", "tokenizer", "phases", "decoding"}
"""Keys by which a plan.json is known as one of llmspec's, of whatever version."""
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system answers that has no locks."""


def accept(path: Path, plan: Plan) -> None:
    """Only a folder that is absent, empty or a run is written into. Raises RunError, naming what is in the way."""
    with disk_errors(path):
        if not os.path.lexists(path):
            return
        if not path.is_dir():
            raise RunError(f"{path} is a file, and a run needs a folder", hint="choose another name with --out")
        names = sorted(os.listdir(path))
        if "model.json" in names:
            raise _not_a_run(path, "it holds a model without a run")
        if "plan.json" in names:
            if not _is_plan(path / "plan.json"):
                raise _not_a_run(path, "its plan.json is not one that llmspec has written, or is damaged")
        elif others := [n for n in names if n != LOCK_FILE and not _left_by_a_start(path, n)]:
            shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            raise _not_a_run(path, f"there is no plan.json beside {shown}")
        for name in ("spec", *(p.name for p in plan.phases)):
            _accept_folder(path / name, is_phase=name != "spec")


def _not_a_run(path: Path, why: str) -> RunError:
    return RunError(
        f"{path} is not empty and not a run directory: {why}",
        hint="choose another folder with --out: one that is absent, empty, or a run",
        consequence="files of that folder would have been moved or overwritten",
    )


def _is_plan(path: Path) -> bool:
    try:
        found = strict_json.loads(read_bytes(path, LARGEST))
    except (ValueError, OSError) as e:
        if isinstance(e, PermissionError):
            raise
        return False
    return isinstance(found, dict) and found.keys() >= PLANS


def _left_by_a_start(path: Path, name: str) -> bool:
    """Whether a file is what a run leaves that was killed before its plan was written."""
    plain = name.lstrip(".").rpartition(".")[0] if name.startswith(".") else name
    return plain in OURS and real_lock(path / LOCK_FILE)


def real_lock(path: Path) -> bool:
    """Whether a `.lock` is one that a run has written: the number of its process."""
    try:
        return read_bytes(path, 40).strip().isdigit()
    except OSError:
        return False


def _accept_folder(folder: Path, is_phase: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not real_folder(folder):
        raise RunError(
            f"{folder} is in the way: a run keeps a folder of that name, and this is not one (or a link)",
            hint="move it, or choose another folder with --out",
            consequence="it would have been overwritten",
        )
    if not is_phase or (folder / "phase.json").exists():
        return
    names = os.listdir(folder)
    if foreign := sorted(n for n in names if not n.startswith((".", "step_")) and n not in OF_A_PHASE):
        raise RunError(
            f"{folder} is in the way: a run keeps a phase of that name there, and it has {foreign[0]}",
            hint="move it, give the phase another name, or choose another folder with --out",
            consequence="it would have been moved away",
        )


@contextmanager
def alone(path: Path) -> Iterator[list[str]]:
    """Held while a run writes; a second process is refused. Gives notices; raises RunError.

    A folder that has no plan.json at the end is left as it was found.
    """
    made = not os.path.lexists(path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        handle = _locked_file(path / LOCK_FILE)
    with os.fdopen(handle, "r+b", buffering=0) as f:
        notices = _lock(handle, path)
        with disk_errors(path / LOCK_FILE):
            f.seek(0)
            f.truncate(0)
            f.write(str(os.getpid()).encode())
        try:
            yield notices
        finally:
            if not os.path.lexists(path / "plan.json"):
                with contextlib.suppress(OSError):
                    if os.listdir(path) == [LOCK_FILE]:
                        (path / LOCK_FILE).unlink()
                        if made:
                            path.rmdir()


def _locked_file(path: Path) -> int:
    handle = open_plain(path, os.O_RDWR | os.O_CREAT)
    content = os.read(handle, 40)
    if os.fstat(handle).st_nlink > 1 or (content.strip() and not content.strip().isdigit()):
        os.close(handle)
        raise RunError(
            f"{path} is in the way: a run keeps the number of its process there, and this is another file",
            hint="move it, or choose another folder with --out",
            consequence="it would have been emptied",
        )
    return handle


def _lock(handle: int, path: Path) -> list[str]:
    """Locks it for this process; a notice where the file system has no locks. Raises RunError."""
    if sys.platform == "win32":
        return []
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in NO_LOCKS:
            return [
                f"the file system of {path} has no locks ({e.strerror}): make sure yourself that no second "
                "process trains in this folder"
            ]
        if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RunError(
                f"another process is training in {path}", hint="wait for it, or choose another folder with --out"
            ) from None
        raise RunError(
            f"{path / LOCK_FILE} cannot be locked: {e.strerror}", hint="choose another folder with --out"
        ) from e
    return []


# -- room ------------------------------------------------------------------------------------------------------------
def check_room(path: Path, plan: Plan) -> None:
    """Whether the checkpoints that a run will keep, and the one that is written aside, fit where they go.

    Raises RunError before anything is spent. What quotas allow shows only when it is written.
    """
    sizes = {p.name: checkpoint_bytes(plan, p) for p in plan.phases}
    wanted = sum(kept(p) * sizes[p.name][0] for p in plan.phases) + max(total for total, _ in sizes.values())
    there = sum(file.lstat().st_size for p in plan.phases for file in (path / p.name).glob("step_*/*"))
    largest, named = max((file, name) for name, (_, file) in sizes.items())
    _check_limit(path, named, largest)
    with disk_errors(path):
        free, nodes = shutil.disk_usage(path).free, os.statvfs(path) if hasattr(os, "statvfs") else None
    if wanted - there > free:
        raise RunError(
            f"the checkpoints of this run take {size(wanted)}"
            + (f", {size(there)} of which are there," if there else "")
            + f" and {path} has {size(free)} free",
            hint="free some space, or choose another folder with --out",
            consequence="the disk would be full in the middle of training: "
            f"{', '.join(f'{kept(p)} of {p.name}' for p in plan.phases)} are kept, and the next one is written beside",
        )
    if nodes is not None and nodes.f_files and nodes.f_favail < 16:
        raise RunError(
            f"the file system of {path} holds {nodes.f_favail} more files, and a run needs 16 at least",
            hint="delete some files there, or choose another folder with --out",
        )


def checkpoint_bytes(plan: Plan, phase: PhasePlan) -> tuple[int, int]:
    """(bytes of a checkpoint, of its largest file); the few kB of headers and cursors left out."""
    weights = 4 * sum(t.count for t in phase.model.stored)
    state = 4 * state_numbers(phase.model, phase.phase)
    return weights + state, max(weights, state)


def kept(phase: PhasePlan) -> int:
    """Checkpoints that a phase leaves behind, at least."""
    best = phase.phase.kept_best
    if phase.steps is None:
        return 1 + best
    every = phase.phase.checkpoint_every.interval(phase.steps)
    return best + (min(phase.phase.kept_last, -(-phase.steps // every)) if every else 1)


def _check_limit(path: Path, phase: str, largest: int) -> None:
    """The limit of the shell on a file's size (`ulimit -f`)."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and largest > limit:
        raise RunError(
            f"a checkpoint of {phase} has a file of {size(largest)}, and no file may be larger than {size(limit)} here",
            hint="raise the limit: `ulimit -f unlimited`",
            consequence=f"no checkpoint could be written to {path}",
        )
