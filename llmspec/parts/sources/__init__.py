"""Where text comes from."""

from llmspec.parts.sources.base import Document, Fetcher, Source
from llmspec.parts.sources.files import Files
from llmspec.parts.sources.inline import Inline
from llmspec.parts.sources.package import Package
from llmspec.parts.sources.python_docs import PythonDocs
from llmspec.parts.sources.validation import Validation

TABLE: dict[str, type[Source]] = {"files": Files, "package": Package, "python_docs": PythonDocs, "inline": Inline}

__all__ = ["TABLE", "Document", "Fetcher", "Source", "Validation"]
