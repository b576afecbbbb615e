"""Names inside a run directory: what llmspec writes there itself, and which names are therefore no phase's."""

from __future__ import annotations

import re
from collections.abc import Iterable

OURS = (
    "spec",
    "resolved.yaml",
    "tokenizer.json",
    "sources.json",
    "lock.json",
    "checks.json",
    "plan.json",
    "facts.json",
)
"""What a run writes beside its phases, in the order of writing: a start that was killed leaves some of it."""
LOCK_FILE = ".lock"
"""Held while a process writes there."""
WRITTEN = (*OURS, LOCK_FILE)
"""All of it."""
CERTIFICATE, CERTIFYING = "certificate.json", ".certify"
"""What `run --certify` writes there, and the folder in which it trains, which is gone afterwards."""
KEY_LETTERS = 8
"""Letters of its key that name the folder in which a phase is kept that was trained with other settings."""
UNFINISHED = "unfinished"[:KEY_LETTERS]
"""Stands there where no key was written."""
LONGEST = 100
"""Letters of a phase's name, so that the folder's name has room for more wherever it is copied to."""
_ASIDE = re.compile(rf"(?P<phase>.+)\.([0-9a-f]{{{KEY_LETTERS}}}|{UNFINISHED})(\.\d+)?", re.IGNORECASE)
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LETTERS}}}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any ending."""


def aside(phase: str, key: object, number: int = 1) -> str:
    """The folder in which a phase is kept that was trained with other settings; `number` counts those of one key."""
    known = isinstance(key, str) and _KEY.match(key)
    return f"{phase}.{str(key)[:KEY_LETTERS] if known else UNFINISHED}" + (f".{number}" if number > 1 else "")


def is_aside(folder: str, phase: str) -> bool:
    """Whether a folder keeps what was trained of a phase with other settings."""
    match = _ASIDE.fullmatch(folder)
    return match is not None and match["phase"] == phase


def wrong(phase: str) -> tuple[str, str]:
    """(what is wrong with a phase's name, what would have happened), both '' where it may be taken.

    Letters of either case count as the same: on many file systems they name the same file.
    """
    if phase.lower() in (*WRITTEN, CERTIFICATE, CERTIFYING):
        return (
            "is the name of a file that a run writes itself",
            "the phase's folder and that file would be in each other's way",
        )
    if _ASIDE.fullmatch(phase):
        return (
            "looks like a folder in which a run keeps what was trained with other settings",
            "the one could be taken for the other",
        )
    if _DEVICE.fullmatch(phase):
        return "is the name of a device on Windows", "its folder could not be made or copied there"
    if phase.endswith("."):
        return "ends with a dot, which Windows drops from names", "its folder could not be opened there"
    if len(phase) > LONGEST:
        return f"has {len(phase)} letters, and {LONGEST} is the most", "its folder could not be made everywhere"
    return "", ""


def free(phase: str, taken: Iterable[str] = ()) -> str:
    """A name near to a phase's that may be taken, beside those that are."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", phase).strip("-")[: LONGEST - 8] or "phase"
    known = {name.lower() for name in taken}
    for name in (plain, f"{plain}-phase", *(f"{plain}-{n}" for n in range(2, len(known) + 3))):
        if not any(wrong(name)) and name.lower() not in known:
            return name
    return "phase"
