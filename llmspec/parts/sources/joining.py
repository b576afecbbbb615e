"""Several JSON files whose entries of one key are one record, as languages of a list of names often lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from llmspec.core.problems import DataError, Problem
from llmspec.parts.sources.base import Document, Fetcher, Found
from llmspec.parts.sources.json_files import null_in, read_map
from llmspec.parts.sources.notes import Problems
from llmspec.parts.sources.opening import Text, texts

KEY = "key"
"""The field that holds what the entries have in common."""


def read_joined(files: list[Found], fetch: Fetcher, encoding: str = "utf-8") -> Iterator[Document]:
    """A record for each key, in the order in which the files have them; all of them are held in memory.

    Raises DataError where a file is no map, where two have one name, and for texts that hold a NUL character.
    """
    stems = [PurePosixPath(found.name.replace("\\", "/")).name.removesuffix(".json") for found in files]
    if doubled := next((stem for i, stem in enumerate(stems) if stem in stems[:i]), None):
        raise DataError(
            f"two of the files to join are called {doubled}.json",
            "join files of different names: fields are called like them",
            "one's fields could not be told from the other's",
        )
    if len(files) < 2:
        raise DataError(
            "`join: true` makes records of several files, and there is only " + (files[0].name if files else "none"),
            "name more files, or leave `join` out",
        )
    problems, rows = Problems(), dict[str, dict[str, Any]]()
    for stem, found in zip(stems, files, strict=True):
        for key, value in read_map(Text(found.name, texts(found, fetch, encoding), fetch.notes, problems)):
            named = (
                {f"{stem}.{name}": field for name, field in value.items()} if isinstance(value, dict) else {stem: value}
            )
            if (wrong := null_in(named)) is not None:
                problems.add(Problem(f"{found.name}, entry `{key[:60]}`: a NUL character in the field `{wrong[:60]}`"))
            rows.setdefault(key, {KEY: key}).update(named)
    problems.check()
    for key, fields in rows.items():
        yield Document(" + ".join(PurePosixPath(found.name).name for found in files), record=fields, item=key)
