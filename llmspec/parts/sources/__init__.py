"""Where text comes from."""

from llmspec.core.table import Table
from llmspec.parts.sources.base import Document, Fetcher, Source
from llmspec.parts.sources.validation import Validation

TABLE = Table[Source](
    __name__,
    {
        "files": "Files",
        "package": "Package",
        "python_docs": "PythonDocs",
        "inline": "Inline",
    },
)

__all__ = ["TABLE", "Document", "Fetcher", "Source", "Validation"]
