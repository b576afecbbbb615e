"""How many processors a container's quota leaves: Linux control groups, version 1 and 2, read from /proc and /sys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

MEMBERS, MOUNTS = "proc/self/cgroup", "proc/self/mountinfo"
LARGEST = 1 << 20
"""Bytes of those files that are read; mountinfo has a line for each mount."""


def quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that this process may use, such as 1.5; None where nothing limits it.

    The smallest quota on the way from its group up to the root of each hierarchy holds. `root` is the folder below
    which proc/ and sys/ are looked for. What cannot be read or makes no sense limits nothing.
    """
    found = [limit for folder in _groups(root) if (limit := _of(folder)) is not None]
    return min(found, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's groups and of all groups above them, where processor time may be limited."""
    members = _members(root)
    for version, mounted, point in _mounts(root):
        top = root / point.lstrip("/")
        group = members.get(version)
        if group is None:
            continue
        # A container sees its own group as the root of the mount, and may be told the host's path to it.
        inside = _below(group, mounted)
        parts = [p for p in (inside or "").split("/") if p not in ("", ".", "..")]
        yield from (top.joinpath(*parts[:n]) for n in range(len(parts), -1, -1))


def _members(root: Path) -> dict[int, str]:
    """Version of the control groups -> this process's group there."""
    found: dict[int, str] = {}
    for line in _lines(root / MEMBERS):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found[2] = group
        elif "cpu" in controllers.split(","):
            found[1] = group
    return found


def _mounts(root: Path) -> Iterator[tuple[int, str, str]]:
    """(version, the group that is mounted, where) of each mount of control groups with processor time."""
    for line in _lines(root / MOUNTS):
        fields, _, rest = line.partition(" - ")
        words, kind = fields.split(" "), rest.split(" ")
        if len(words) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            yield 2, _unescaped(words[3]), _unescaped(words[4])
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield 1, _unescaped(words[3]), _unescaped(words[4])


def _below(group: str, mounted: str) -> str | None:
    """A group's path as seen from the one that is mounted; None where it lies elsewhere."""
    mounted = mounted.rstrip("/")
    if group == mounted or group.startswith(f"{mounted}/"):
        return group[len(mounted) :]
    return None


def _of(folder: Path) -> float | None:
    """A group's own quota in processors: cpu.max of version 2, cpu.cfs_* of version 1."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:
        words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    if len(words) != 2 or not all(re.fullmatch(r"\d{1,18}", w.strip()) for w in words):
        return None  # "max", or -1: no limit
    allowed, period = (int(w) for w in words)
    return allowed / period if allowed and period else None


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as held:
            return held.read(LARGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path)
