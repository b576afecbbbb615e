"""What somebody's files hold: how many, of which kinds, how long, and whether they are dialogues."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from llmspec.core.problems import DataError, Problem
from llmspec.core.regular import read_regular
from llmspec.data.fetch import Fetch, Progress
from llmspec.data.formats import is_metadata, recognised
from llmspec.parts.base import Frozen
from llmspec.parts.sources.base import Found
from llmspec.parts.sources.files import Files
from llmspec.parts.sources.finding import find
from llmspec.parts.sources.notes import Notes
from llmspec.parts.sources.opening import PACKED
from llmspec.parts.sources.readers import READERS

PROSE = (".txt", ".md", ".markdown", ".rst", ".text", ".org", ".tex", ".adoc")
"""Suffixes of plain text; others are taken where a folder has neither these nor records."""
MOST_CHARACTERS = 32_000_000
"""Text that is looked at; of larger sources the rest is estimated by its bytes."""
LOOKED_AT = 50
"""JSON files of a folder that are looked into, to see whether they are records."""
SAMPLE = 2_000_000
"""Characters kept, from which a vocabulary is learned to see how many a token holds."""


class Contents(Frozen):
    """What was found below a path. Numbers of documents and characters are estimates unless `whole`."""

    patterns: tuple[str, ...]
    """What `path:` says in the spec, below the folder that was looked at."""
    kinds: dict[str, int]
    """Files that are read, by suffix."""
    left_out: dict[str, int]
    """Files that are not, by suffix."""
    bytes: int
    documents: int
    characters: int
    letters: int
    """Different characters, as far as looked."""
    middle: int
    """Characters of a document: half of them are longer."""
    long: int
    """Characters of a document: a tenth of them is longer."""
    sample: tuple[str, ...] = Field(exclude=True, repr=False)
    """Some of the text."""
    records: bool
    format: str = ""
    """Name of the format in which the records are dialogues; '' where they are none."""
    template: dict[str, str] = {}
    """The dialogue that two fields of unknown names are guessed to be."""
    whole: bool
    notes: tuple[str, ...] = ()
    """What finding and reading left out or had to guess, in sentences."""

    @property
    def files(self) -> int:
        return sum(self.kinds.values())


def look(path: Path, chat: bool, progress: Progress | None = None) -> Contents:
    """Read what lies at a path, a file or a folder, as far as MOST_CHARACTERS.

    Raises:
        DataError: nothing is there to read, it cannot be read, or, of `chat`, it holds no dialogues.
    """
    if not path.exists():
        raise DataError(f"there is nothing at `{path}`", "name a folder of text files, or a file")
    if path.is_dir() and not any(below.is_file() for below in path.rglob("*")):
        raise DataError(f"`{path}` holds no files", "name a folder of text files, or a file")
    folder = path if path.is_dir() else path.parent
    fetch = Fetch(folder.absolute(), True, progress)
    patterns: tuple[str, ...] = ("**/*",) if path.is_dir() else (glob.escape(path.name),)
    found = find(fetch, fetch.base, patterns, "path")
    if path.is_dir():
        patterns, found, left_out = chosen(found, path, chat)
    else:
        left_out = {}
    size = sum(file.state[0] for file in found)
    # Found anew by the patterns that the spec will name, so that what is looked at is what will be read.
    notes = Notes()
    source = Files(path=patterns)
    seen = _Seen()
    for document in source.documents(fetch.noting(notes)):
        seen.add(document)
        if progress and seen.documents % 1000 == 0:
            progress("looking at the files", seen.characters, min(MOST_CHARACTERS, size))
        if seen.characters >= MOST_CHARACTERS:
            break
    if not seen.characters:
        raise DataError(f"`{path}` holds no text", "name other files", "there would be nothing to train on")
    if chat:
        seen.check_dialogues(path)
    whole = seen.characters < MOST_CHARACTERS
    # Compressed files hold about three times their bytes.
    packed = sum(file.state[0] for file in found if Path(file.name).suffix.lower() in PACKED)
    scale = 1.0 if whole else max(1.0, (size + 2 * packed) / max(1, seen.bytes))
    lengths = sorted(seen.lengths)
    return Contents(
        patterns=patterns,
        kinds=dict(Counter(_suffix(file) for file in found)),
        left_out=left_out,
        bytes=size,
        documents=round(seen.documents * scale),
        characters=round(seen.characters * scale),
        letters=len(seen.letters),
        middle=lengths[len(lengths) // 2],
        long=lengths[len(lengths) * 9 // 10],
        sample=tuple(seen.sample),
        records=seen.records > 0,
        format=seen.format,
        template=seen.template,
        whole=whole,
        notes=(*fetch.notes.said(), *notes.said()),
    )


def chosen(found: list[Found], path: Path, chat: bool) -> tuple[tuple[str, ...], list[Found], dict[str, int]]:
    """Of a folder's files those that are text: their patterns, the files, and how many others by suffix."""
    by_suffix: dict[str, list[Found]] = {}
    for file in found:
        by_suffix.setdefault(_suffix(file), []).append(file)
    plain = {suffix: _bare(suffix) for suffix in by_suffix}
    records = {suffix for suffix, bare in plain.items() if bare in READERS}
    prose = {suffix for suffix, bare in plain.items() if bare in PROSE}
    if prose and not chat:  # beside texts lie settings and the like, as in a repository: these are no records
        records = {s for s in records if plain[s] != ".json" or all(map(_may_hold_records, by_suffix[s][:LOOKED_AT]))}
    wanted = records if chat else records | prose
    if not wanted and not chat:  # source code and the like: whatever reads as text
        wanted = {suffix for suffix, files in by_suffix.items() if suffix and all(map(_is_text, files[:3]))}
    if not wanted:
        kinds = ", ".join(f"{len(files)} {suffix or 'without a suffix'}" for suffix, files in by_suffix.items())
        raise DataError(
            Problem(
                f"`{path}` holds no {'records' if chat else 'text'}: there are {kinds or 'no files'}",
                hint="dialogues are read from .jsonl, .json, .csv and .tsv"
                if chat
                else "text is read from .txt, .md and the like, records from .jsonl, .json, .csv and .tsv",
            )
        )
    kept = [file for file in found if _suffix(file) in wanted]
    left_out = {suffix or "no suffix": len(files) for suffix, files in by_suffix.items() if suffix not in wanted}
    return tuple(f"**/*{glob.escape(suffix)}" for suffix in sorted(wanted)), kept, left_out


def _may_hold_records(file: Found) -> bool:
    """Whether a JSON file is a list or map of maps; one that is large, packed or broken may be."""
    try:
        value = json.loads(read_regular(Path(file.path), SAMPLE))
    except (OSError, ValueError, RecursionError):
        return True
    entries = list(value.values()) if isinstance(value, dict) else value
    return isinstance(entries, list) and bool(entries) and all(isinstance(entry, dict) and entry for entry in entries)


class _Seen:
    """Counts of the documents that were looked at."""

    def __init__(self) -> None:
        self.documents = self.characters = self.bytes = self.records = 0
        self.sample: list[str] = []
        self.lengths: list[int] = []
        self.letters: set[str] = set()
        self.format = ""
        self.formats: Counter[str] = Counter()
        self.template: dict[str, str] = {}
        self.first: Any = None
        self._begun = 0

    def add(self, document: Any) -> None:
        texts = [document.text] if document.record is None else list(_strings(document.record))
        length = sum(map(len, texts))
        for text in texts:
            self.letters.update(text)
            self.bytes += len(text.encode("utf-8", "replace"))
        if self.characters < SAMPLE:
            self.sample += [text[:SAMPLE] for text in texts if text]
        self.characters += length
        self._begun += length
        if document.more:  # the text goes on in the next stretch
            return
        self.documents += 1
        self.lengths.append(self._begun)
        self._begun = 0
        if document.record is not None:
            self.records += 1
            self.first = self.first or document
            form = recognised(document.record)
            self.formats[form.name if form else ""] += 1

    def check_dialogues(self, path: Path) -> None:
        """Note the format of the dialogues. Raises DataError where there are none."""
        if not self.records:
            raise DataError(
                f"`{path}` is plain text, and a dialogue needs records",
                'write records such as {"question": "...", "answer": "..."}, one a line, or use --text',
            )
        self.format = next((name for name, _ in self.formats.most_common() if name), "")
        if self.format:
            return
        fields = [
            name
            for name, value in self.first.record.items()
            if isinstance(value, str) and value.strip() and not is_metadata(name, value)
        ]
        if len(fields) != 2:
            raise DataError(
                f"the records of `{path}` are not dialogues in a known format: the first ({self.first.where}) has "
                f"{', '.join(map(str, self.first.record))}",
                "rename two of its fields to question and answer, or write a spec with "
                '`dialogue: {user: "{FIELD}", assistant: "{FIELD}"}` at the source',
            )
        self.template = {"user": f"{{{fields[0]}}}", "assistant": f"{{{fields[1]}}}"}


def _strings(value: Any) -> Iterator[str]:
    """Every text in a record, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for below in value.values():
            yield from _strings(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _strings(below)


def _suffix(file: Found) -> str:
    """`.jsonl.gz`, `.md`; '' without one."""
    suffixes = Path(file.name).suffixes[-2:]
    return "".join(suffixes) if suffixes[-1:] and suffixes[-1].lower() in PACKED else "".join(suffixes[-1:])


def _bare(suffix: str) -> str:
    """The suffix of what is inside: `.jsonl` of `.jsonl.gz`."""
    return next((s for s in Path(f"x{suffix}").suffixes if s.lower() not in PACKED), "").lower()


def _is_text(file: Found) -> bool:
    try:
        with open(file.path, "rb") as opened:
            raw = opened.read(4096)
    except OSError:
        return False
    try:
        return b"\0" not in raw and bool(raw[: raw.rfind(b"\n") + 1 or None].decode("utf-8"))
    except UnicodeDecodeError:
        return False


def relative(path: Path, folder: Path) -> str:
    """How a spec in `folder` names a path: relative where that is short, with glob characters escaped."""
    path, folder = path.absolute(), folder.absolute()
    found = os.path.relpath(path.resolve(), folder.resolve())
    return glob.escape(str(path) if found.startswith("../../..") else found)
