"""Which files a glob pattern means: each real file once, never what llmspec itself writes, nothing skipped unsaid."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from llmspec.core.problems import Problem, nearest
from llmspec.core.units import size
from llmspec.parts.sources.base import Fetcher, Found
from llmspec.parts.sources.no_text import NO_TEXT
from llmspec.parts.sources.notes import SHOWN, Notes, Problems

_TOLD = 5_000
"""Entries between two reports of progress."""
_COMPARED = 2_000
"""Neighbours that a misspelt name is compared with."""
_OF_A_RUN = ("plan.json", "lock.json", "sources.json", "resolved.yaml")
"""Files of which two lie together in a run's folder alone, from its first moments on."""
_SMALL = 1 << 20
"""Bytes up to which a hole in a file costs nothing."""
_KINDS = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def find(fetch: Fetcher, folder: Path, globs: tuple[str, ...], key: str) -> list[Found]:
    """Regular files that match, each real file once, by pattern and then by path.

    `*`, `?` and `**` pass over names that begin with a dot, as shells do. Links are followed; a folder or file that is
    reached twice is read once. Folders of runs and the cache are left out. What is left out goes to `fetch.notes`.

    Raises:
        DataError: a pattern matches nothing, a folder cannot be read, or what is named is no regular file.
    """
    seen = _Seen(fetch.notes, _cache(fetch.cache), lambda count: fetch.progress("looking for files", count, 0))
    found: list[Found] = []
    for pattern in globs:
        walk = _Walk(seen, str(folder), pattern)
        matches = walk.run()
        found += matches
        if not walk.matched and not walk.problems:
            hint = _nearest(folder, pattern, walk.left_out) if seen.problems.count < SHOWN else ""
            walk.problems.append(
                Problem(
                    f"no file matches `{shortened(pattern)}` in {folder}", (key,), hint, "the source would have no text"
                )
            )
        seen.problems.add(*(problem if problem.path else problem.at(key) for problem in walk.problems))
    seen.problems.check()
    return found


@dataclass
class _Seen:
    """What the patterns of one source have come by."""

    notes: Notes
    cache: tuple[int, int] | None
    tell: Callable[[int], None]
    files: dict[object, str] = field(default_factory=dict)
    """Identity of a real file -> the name it is read under."""
    problems: Problems = field(default_factory=Problems)
    count: int = 0
    noted: set[tuple[str, str]] = field(default_factory=set)

    def note(self, reason: str, name: str) -> None:
        """Note what is left out, once: patterns overlap, and `**` comes by twice."""
        if (reason, name) not in self.noted:
            self.noted.add((reason, name))
            self.notes.add(reason, shown(name))

    def entry(self) -> None:
        self.count += 1
        if self.count % _TOLD == 0:
            self.tell(self.count)


class _Place(NamedTuple):
    """A folder on the way: its path, its name in messages, and which part of the pattern comes next."""

    path: str
    name: str
    at: int
    linked: bool


class _Walk:
    """One pattern's way through the folders. Links wait until all else is seen: a file keeps its own name."""

    def __init__(self, seen: _Seen, base: str, pattern: str) -> None:
        self.seen, self.base = seen, base
        real = os.path.expanduser(pattern)
        self.parts = Path(pattern).parts
        self.start = _Place(base, "", 0, False)
        if real != pattern or os.path.isabs(real):
            head = Path(pattern).parts[0]
            self.start = _Place(os.path.expanduser(head), Path(head).as_posix(), 1, False)
        # A name may hold glob characters itself.
        whole = os.path.isfile(os.path.join(base, real))
        self.magic = [not whole and glob.has_magic(part) for part in self.parts]
        self.rules = [re.compile(fnmatch.translate(os.path.normcase(part))).match for part in self.parts]
        self.visited: set[tuple[int, int, int]] = set()
        self.todo: deque[_Place] = deque()
        self.links: deque[_Place] = deque()
        self.candidates: list[tuple[bool, list[str], str, os.stat_result]] = []
        """Files that match: whether a link led there, the name in its parts, path, status."""
        self.listed: tuple[str, list[os.DirEntry[str]]] = ("", [])
        self.problems: list[Problem] = []
        self.left_out: Counter[str] = Counter()
        self.matched = False

    def run(self) -> list[Found]:
        self.todo.append(self.start)
        if self.start.at == len(self.parts):  # `.`, `~` or `/`
            self.file(self.start.path, self.start.name or ".", False, named=True)
        while self.todo or self.links:
            self.visit((self.todo or self.links).popleft())
        self.candidates.sort(key=lambda candidate: candidate[:2])
        self.matched = bool(self.candidates)
        kept = [
            (parts, found)
            for linked, parts, path, status in self.candidates
            if (found := self.unseen(linked, "/".join(parts), path, status))
        ]
        if any(linked for linked, *_ in self.candidates):
            kept.sort(key=lambda each: each[0])
        return [found for _, found in kept]

    def unseen(self, linked: bool, name: str, path: str, status: os.stat_result) -> Found | None:
        """The file, unless it is read already under this or another name."""
        key = _identity(status) or path
        known = self.seen.files.get(key)
        if known is None:
            self.seen.files[key] = name
            return Found(name, path, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
        if known != name:
            self.seen.note(
                "links to files that are read already"
                if linked or os.path.islink(path)
                else "further names (hard links) of files that are read already",
                name,
            )
        return None

    def visit(self, place: _Place) -> None:
        """Go on from a folder with the part of the pattern that comes next."""
        if place.at >= len(self.parts):
            return
        part, last = self.parts[place.at], place.at == len(self.parts) - 1
        if not self.enters(place):
            return
        if part == "**" and self.magic[place.at]:
            for entry in self.entries(place):
                if (last or _is_folder(entry)) and not entry.name.startswith("."):
                    self.step(place, entry, place.at, files=last)
            if not last:
                self.todo.appendleft(place._replace(at=place.at + 1))
        elif self.magic[place.at]:
            rule, hidden = self.rules[place.at], part.startswith(".")
            for entry in self.entries(place):
                if (hidden or not entry.name.startswith(".")) and rule(os.path.normcase(entry.name)):
                    self.step(place, entry, place.at + 1, files=last, folders=not last)
        elif last:
            self.file(os.path.join(place.path, part), _joined(place.name, part), place.linked, named=True)
        else:
            self.todo.append(
                _Place(os.path.join(place.path, part), _joined(place.name, part), place.at + 1, place.linked)
            )

    def step(self, place: _Place, entry: os.DirEntry[str], at: int, files: bool, folders: bool = True) -> None:
        """One entry of a folder that matches."""
        self.seen.entry()
        name = _joined(place.name, entry.name)
        linked = entry.is_symlink()
        if not _is_folder(entry):
            if files:
                self.file(entry.path, name, place.linked or linked)
        elif folders:
            (self.links if linked else self.todo).append(_Place(entry.path, name, at, place.linked or linked))

    def enters(self, place: _Place) -> bool:
        """Whether a folder is there and is to be read. One that links reach again is read once."""
        try:
            status = os.stat(place.path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                self.problems.append(_unreadable(place.name or place.path, error))
            return False
        if not stat.S_ISDIR(status.st_mode):
            return False
        key = (place.at, status.st_dev, status.st_ino)
        if status.st_ino and key in self.visited:
            self.leave("links to folders that are read already", place.name)
            return False
        self.visited.add(key)
        if place.path == self.base:
            return True
        ours = (
            "the cache of llmspec"
            if _identity(status) == self.seen.cache
            else ("folders of runs" if _is_run(place.path) else "")
        )
        if ours:
            self.leave(ours, place.name)
        return not ours

    def leave(self, reason: str, name: str) -> None:
        """Note what this pattern passes over."""
        self.left_out[f"{reason}: {shown(name)}"] += 1
        self.seen.note(reason, name)

    def entries(self, place: _Place) -> list[os.DirEntry[str]]:
        """What a folder holds, by name; the last listing is kept, since `**` and what follows it read the same."""
        if self.listed[0] != place.path:
            try:
                with os.scandir(place.path) as found:
                    self.listed = (place.path, sorted(found, key=lambda entry: entry.name))
            except FileNotFoundError:
                return []
            except OSError as error:
                self.problems.append(_unreadable(place.name or place.path, error))
                return []
        return self.listed[1]

    def file(self, path: str, name: str, linked: bool, named: bool = False) -> None:
        """Note a file that matches; `named` without wildcards, it has to be one."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            if os.path.islink(path):
                self.leave("links that lead nowhere", name)
            return
        except NotADirectoryError:
            return
        except OSError as error:
            if error.errno == errno.ELOOP and not named:
                self.leave("links that lead nowhere", name)
            else:
                self.problems.append(_unreadable(name, error))
            return
        if stat.S_ISREG(status.st_mode):
            if problem := _sparse(path, name, status):
                self.problems.append(problem)
            self.candidates.append((linked, shown(name).split("/"), path, status))
        elif named and stat.S_ISDIR(status.st_mode):
            self.problems.append(_a_folder(path, name))
        elif named:
            self.problems.append(
                Problem(
                    f"`{shown(name)}` is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no regular file')}, "
                    "not a regular file",
                    hint="write its text into a file, and name that",
                    consequence="reading it might never end",
                )
            )
        elif not stat.S_ISDIR(status.st_mode):
            self.leave("pipes, sockets and devices", name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def shown(name: str) -> str:
    r"""A file name as Unicode: bytes that are no UTF-8 are written as `\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shortened(name: str) -> str:
    """A name that fits into a sentence."""
    return name if len(name) <= 120 else f"{name[:80]}...{name[-30:]}"


def _joined(folder: str, name: str) -> str:
    return name if not folder else folder + name if folder.endswith("/") else f"{folder}/{name}"


def _identity(status: os.stat_result) -> tuple[int, int] | None:
    """What a real file or folder is known by; None where the file system numbers none."""
    return (status.st_dev, status.st_ino) if status.st_ino else None


def _cache(folder: Path) -> tuple[int, int] | None:
    try:
        return _identity(os.stat(folder))
    except OSError:
        return None


def _is_run(folder: str) -> bool:
    """Whether llmspec wrote this folder: reading a run's own metrics would make each run see other data."""
    return sum(os.path.isfile(os.path.join(folder, name)) for name in _OF_A_RUN) > 1


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(
        f"`{shortened(shown(name))}` cannot be read: {error.strerror or error}",
        hint="give permission to read it, or narrow the pattern",
        consequence="its text would be missing",
    )


def _sparse(path: str, name: str, status: os.stat_result) -> Problem | None:
    """The problem of a file with holes, where nothing was ever written: NULs to read, perhaps a terabyte of them."""
    if status.st_size <= _SMALL or getattr(status, "st_blocks", 1 << 60) * 512 >= status.st_size:
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
    except (OSError, AttributeError):  # no permission, or a system that does not tell; reading it will
        return None
    name = shortened(shown(name))
    return (
        None
        if hole >= status.st_size
        else Problem(
            f"`{name}` is a sparse file of {size(status.st_size)}: from byte {hole:,} on nothing was written",
            hint="write it again, or narrow the pattern",
            consequence="the hole would be read as NUL characters",
        )
    )


def _a_folder(path: str, name: str) -> Problem:
    """A folder was named where a file is meant: say which pattern reads it."""
    suffixes: Counter[str] = Counter()
    for _, _, names in os.walk(path):
        suffixes.update(Path(n).suffix for n in names if not n.startswith("."))
        if suffixes.total() > _COMPARED:
            break
    text = {s: n for s, n in suffixes.items() if s.lower() not in NO_TEXT}
    hint = f"write `{_joined(shown(name), '**/*')}{max(text, key=text.__getitem__, default='')}` for what it holds"
    if suffixes and not text:
        what = sorted({NO_TEXT[s.lower()][0] for s in suffixes})
        hint = f"it holds {' and '.join(what[:3])} ({suffixes.total():,} files): take the text out of each first"
    return Problem(
        f"`{shown(name)}` is a folder",
        hint=hint + ("" if suffixes else "; it is empty now"),
        consequence="the source would have no text",
    )


def _no_glob(pattern: str) -> str:
    """What to write instead of what patterns do not know; empty where they know all of it."""
    if os.sep == "/" and "\\" in pattern:
        return f"folders are separated by `/`: `{pattern.replace(chr(92), '/')}`"
    if re.search(r"\{[^{}]*,[^{}]*\}", pattern):
        return "patterns have no braces; write a list, such as `[notes/*.md, notes/*.txt]`"
    if "$" in pattern or re.search(r"%\w+%", pattern):
        return "variables are not replaced in a spec; write the path out, or `~` for the home folder"
    return ""


def _nearest(folder: Path, pattern: str, left_out: Iterable[str]) -> str:
    """What to do about a pattern that matches nothing: the nearest name, or what there is."""
    whole = folder / os.path.expanduser(pattern)
    try:
        there = sorted(shown(name) for name in os.listdir(whole.parent))
    except (OSError, ValueError):
        there = []
    near = nearest(whole.name, there[:_COMPARED])
    reasons = list(left_out)
    if reasons:
        hint = f"skipped, since it is not text of yours: {shown(reasons[0])}"
        hint += f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    elif other := _no_glob(pattern):
        hint = other
    elif near and near != whole.name:
        hint = f"did you mean `{(Path(pattern).parent / near).as_posix()}`?"
    elif there:
        hint = f"there are: {', '.join(there[:8])}{' ...' if len(there) > 8 else ''}"
    elif glob.has_magic(str(whole.parent)):
        hint = "try a wider pattern; `**` matches any folders"
    else:
        there_is = "empty" if os.path.isdir(whole.parent) else "not a folder"
        hint = f"{shortened(os.path.realpath(whole.parent))} is {there_is}"
    return hint
