"""Text files of the user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.parts.sources import encodings
from llmspec.parts.sources.base import Document, Fetcher, patterns
from llmspec.parts.sources.finding import find
from llmspec.parts.sources.in_files import InFiles
from llmspec.parts.sources.notes import Notes


class Files(InFiles):
    """Records (.jsonl, .json, .csv, .tsv: a document a record; .conll, .iob, .iob2, .bio: one a sentence) and text
    (.txt, .md and the like: a document a file)."""

    revision: ClassVar[int] = 2
    relative: ClassVar[tuple[str, ...]] = ("path",)

    kind: Literal["files"] = "files"
    path: str | tuple[str, ...] = Field(min_length=1)
    """Glob patterns: in a spec relative to the folder of the file that says it, in `--set` to the working directory.

    `**` matches any folders, `~` is the home folder, `*` skips names that begin with a dot. Each file is read once,
    however many links lead to it; `.gz`, `.bz2`, `.xz` and `.zst` are unpacked; folders of runs are left out.
    """
    encoding: str = "utf-8"
    """How the files' bytes stand for characters, such as `utf-16`, `cp1252`, `shift_jis`; line ends become `\\n`."""

    @field_validator("path")
    @classmethod
    def _paths(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for pattern in patterns(path):
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", pattern):
                raise ValueError(
                    f"`{pattern}` is a web address, and only local files are read; download it, and name the file"
                )
            if not pattern.strip() or "\0" in pattern:
                raise ValueError(f"{pattern!r} names no file; write a path or a pattern, such as `notes/**/*.md`")
        return path

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, encoding: str) -> str:
        return encodings.check(encoding)

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        found = fetch.listed.get(patterns(self.path))
        if found is None:
            # What is passed over is said with the fingerprint, which is taken anew whenever the source is used.
            found = find(fetch.noting(Notes()), fetch.base, patterns(self.path), "path")
        yield from self.read(found, fetch, self.encoding)

    def fingerprint(self, fetch: Fetcher) -> Any:
        found = find(fetch, fetch.base, patterns(self.path), "path")
        fetch.listed[patterns(self.path)] = found
        hashes = fetch.digests(found, patterns(self.path))
        files = [[file.name, digest] for file, digest in zip(found, hashes, strict=True)]
        how = {
            **({} if self.encoding == "utf-8" else {"encoding": self.encoding}),
            **self.how,
        }
        return {**how, "files": files} if how else files
