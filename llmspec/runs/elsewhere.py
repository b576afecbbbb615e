"""Phases that a run beside this one has trained with the very same settings: found by their keys, and copied, so that
each run stands alone and none needs what another may free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from llmspec.core import run_names
from llmspec.core.disk import real_folder
from llmspec.core.problems import RunError
from llmspec.runs import aside
from llmspec.runs.files import disk_errors, new_folder
from llmspec.runs.run import PhaseFolder, RunFolder

FILES = ("phase.json", "settings.json", "metrics.jsonl", "timing.jsonl", "samples.jsonl", "answers.json")
"""What lies in a phase's folder beside its checkpoints."""


def beside(run: Path) -> Iterator[Path]:
    """The other runs in the folder that a run lies in, by their names."""
    here = Path(os.path.abspath(run))
    for plan in sorted(here.parent.glob("*/plan.json")):
        if plan.parent.name != here.name and real_folder(plan.parent):
            yield plan.parent


def trained_elsewhere(run: Path, name: str, key: str, whole: Callable[[PhaseFolder], bool]) -> PhaseFolder | None:
    """A phase that another run has trained to its end with this key, in its place or set aside, and that is `whole`;
    None where there is none. What is damaged is passed over."""
    for other in beside(run):
        place = RunFolder(other).phase(name)
        try:
            for one in (place, *aside.kept_aside(place)):
                if real_folder(one.folder) and one.about.get("key") == key and one.about.get("done") and whole(one):
                    return one
        except RunError:
            continue
    return None


def copied(source: PhaseFolder, target: PhaseFolder) -> None:
    """Copies a phase into the place of another run, where nothing is yet: its notes, rows and checkpoints, and nothing
    else that lies there. Raises RunError."""
    with disk_errors(target.folder), new_folder(target.folder) as made:
        for entry in sorted(os.scandir(source.folder), key=lambda e: e.name):
            if entry.name in FILES and entry.is_file(follow_symlinks=False):
                shutil.copyfile(entry.path, made / entry.name)
            elif entry.name.startswith("step_") and entry.is_dir(follow_symlinks=False):
                (made / entry.name).mkdir()
                for part in os.scandir(entry.path):
                    if part.is_file(follow_symlinks=False):
                        shutil.copyfile(part.path, made / entry.name / part.name)
    target.note(copied=f"{source.folder.parent.name}/{source.folder.name}")


def taken_in(place: PhaseFolder, found: PhaseFolder | None) -> str:
    """Copies what was found elsewhere; what is said of it, '' for nothing."""
    if found is None:
        return ""
    name = place.folder.name
    try:
        copied(found, place)
    except (OSError, RunError) as e:
        why = e.problems[0].message if isinstance(e, RunError) else str(e)
        return f"{name} was trained with these settings in {found.folder}, and cannot be copied from there ({why})"
    return f"{name} was trained with these settings in {found.folder}: it is copied from there"


def missing_keys(runs: Path) -> dict[str, str]:
    """Key -> the run beside whose plan has a phase with it that it has not trained yet, of all runs in a folder."""
    found: dict[str, str] = {}
    for path in sorted(runs.glob("*/plan.json")):
        run = RunFolder(path.parent)
        try:
            for planned in run.plan().phases:
                if not run.phase(planned.name).done(planned):
                    found.setdefault(planned.key, path.parent.name)
        except RunError:
            continue
    return found


def kept_twice(run: Path, name: str, key: str) -> str:
    """Another run that has trained a phase with this key to its end, too; '' where there is none."""
    for other in beside(run):
        for path in sorted(other.glob(f"{name}*")):
            if path.name != name and not run_names.is_aside(path.name, name):
                continue
            try:
                about = PhaseFolder(path).about if real_folder(path) else {}
            except RunError:
                continue
            if about.get("key") == key and about.get("done"):
                return f"{other.name}/{path.name}"
    return ""
