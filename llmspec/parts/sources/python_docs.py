"""Text that every Python has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from llmspec.core.hashing import digest
from llmspec.core.problems import DataError
from llmspec.parts.sources.base import Document, Fetcher, Source


class PythonDocs(Source):
    """The language reference inside the running Python: one document a topic, by name."""

    kind: Literal["python_docs"] = "python_docs"

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        for name, text in sorted(_topics().items()):
            if text.strip():
                yield Document(name, text)

    def fingerprint(self, fetch: Fetcher) -> Any:
        return digest(_topics())


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError("this Python has no pydoc_data.topics", "use a Python with its standard library") from None
    return topics
