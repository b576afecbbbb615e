"""Phases trained with other settings: kept beside the run's own, and taken back when a run returns to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmspec.core import run_names
from llmspec.core.problems import RunError
from llmspec.runs.files import disk_errors
from llmspec.runs.run import PhaseFolder


def put_in_place(place: PhaseFolder, key: str) -> tuple[Path | None, Path | None]:
    """Makes a phase's folder that of the settings with this key: (where other work was moved to, where it came from).

    Both are None where the folder is right already, or where nothing was trained yet. Nothing is ever deleted.
    """
    return set_aside(place, key), take_back(place, key)


def set_aside(place: PhaseFolder, key: str) -> Path | None:
    """Moves away what was trained with other settings, keeping it; returns where it went."""
    if not place.folder.exists() or place.about.get("key") == key:
        return None
    number = 1
    while (
        target := place.folder.with_name(run_names.aside(place.folder.name, place.about.get("key"), number))
    ).exists():
        number += 1
    with disk_errors(place.folder.parent):
        place.folder.rename(target)
    return target


def take_back(place: PhaseFolder, key: str) -> Path | None:
    """Puts back what was set aside and has this key, finished or not; returns where it was, None where there is none.

    Of several, the one that was trained furthest comes back. Nothing happens while something else is in place.
    """
    if place.folder.exists():
        return None
    found = {kept.folder: rank for kept in kept_aside(place) if (rank := trained(kept, key)) is not None}
    if not found:
        return None
    best = max(found, key=lambda folder: found[folder])
    with disk_errors(place.folder.parent):
        best.rename(place.folder)
    return best


def kept_aside(place: PhaseFolder) -> Iterator[PhaseFolder]:
    """What was set aside of this phase."""
    for path in sorted(place.folder.parent.glob("*")):
        if run_names.is_aside(path.name, place.folder.name):
            yield PhaseFolder(path)


def trained(kept: PhaseFolder, key: str) -> tuple[bool, int] | None:
    """(whether it is done, step of its newest sound checkpoint) of a folder with this key.

    None for another key, and where its notes are damaged or a checkpoint is not its own: that stays where it is.
    """
    try:
        about = kept.about
        saved, _ = kept.checkpoint(key) if about.get("key") == key else (None, [])
    except RunError:
        return None
    return (bool(about.get("done")), saved.step if saved else 0) if about.get("key") == key else None
