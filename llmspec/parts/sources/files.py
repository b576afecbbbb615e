"""Text files of the user."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llmspec.core.problems import DataError, Problem, nearest
from llmspec.parts.sources.base import Document, Fetcher, Source, patterns
from llmspec.parts.sources.readers import read_files


class Files(Source):
    """Text (.txt, .md and the like: a document a file) and records (.jsonl, .json: a document a record)."""

    kind: Literal["files"] = "files"
    path: str | tuple[str, ...] = Field(min_length=1)
    """Glob patterns, relative to the spec's folder; `**` crosses folders."""

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        yield from read_files(find(fetch.base, patterns(self.path), "path"))

    def fingerprint(self, fetch: Fetcher) -> Any:
        return [[name, fetch.digest(path)] for name, path in find(fetch.base, patterns(self.path), "path")]


def find(folder: Path, globs: tuple[str, ...], key: str) -> list[tuple[str, Path]]:
    """Files that match, as (name relative to `folder`, path), each once, by pattern and then by path.

    Raises:
        DataError: a pattern matches nothing.
    """
    found: dict[str, Path] = {}
    problems = []
    for pattern in globs:
        # A name may hold glob characters itself.
        names = [pattern] if (folder / pattern).is_file() else glob.glob(pattern, root_dir=folder, recursive=True)
        files = sorted((Path(name) for name in names if (folder / name).is_file()), key=lambda p: p.parts)
        found.update((path.as_posix(), folder / path) for path in files)
        if not files:
            problems.append(_missing(folder, pattern, key))
    if problems:
        raise DataError(problems)
    return list(found.items())


def _missing(folder: Path, pattern: str, key: str) -> Problem:
    parent = (folder / pattern).parent
    there = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    near = nearest(Path(pattern).name, there)
    if near:
        hint = f"did you mean `{(Path(pattern).parent / near).as_posix()}`?"
    elif there:
        hint = f"there are: {', '.join(there[:8])}{' ...' if len(there) > 8 else ''}"
    elif glob.has_magic(str(parent)):
        hint = "try a wider pattern; `**` crosses folders"
    else:
        hint = f"{parent} is {'empty' if parent.is_dir() else 'not a folder'}"
    return Problem(f"no file matches `{pattern}` in {folder}", (key,), hint, "the source would have no text")
