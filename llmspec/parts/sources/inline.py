"""Text written in the spec itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from llmspec.parts.sources.base import Document, Fetcher, Source
from llmspec.parts.sources.json_files import null_in


class Inline(Source):
    """Documents and records that stand in the spec."""

    kind: Literal["inline"] = "inline"
    # `documents` on the class is the method; in YAML it is the list.
    written: tuple[str, ...] = Field((), alias="documents")
    """Plain texts."""
    records: tuple[dict[str, Any], ...] = ()
    """Maps of named fields, shaped by `text` and `dialogue`."""

    @field_validator("records")
    @classmethod
    def _tuples(cls, records: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        # YAML gives tuples and JSON lists: one form, so that a printed plan reads back as an equal one.
        return tuple(_frozen(record) for record in records)

    @model_validator(mode="after")
    def _something(self) -> Inline:
        if not self.written and not self.records:
            raise ValueError("an inline source has `documents:` or `records:`")
        if not all(self.records) or not all(text.strip() for text in self.written):
            key = "documents" if all(self.records) else "records"
            raise ValueError(f"`{key}:` has an empty one, which has no text to train on")
        for key, torn in (
            ("documents", any("\0" in text for text in self.written)),
            ("records", any(null_in(record) is not None for record in self.records)),
        ):
            if torn:
                raise ValueError(f"`{key}:` has a NUL character, which no text has")
        return self

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        for i, text in enumerate(self.written, 1):
            yield Document("documents", text, item=str(i))
        for i, record in enumerate(self.records, 1):
            yield Document("records", record=dict(record), item=str(i))

    def fingerprint(self, fetch: Fetcher) -> Any:
        return self._content()

    def _content(self) -> str:
        # As text, since the order of a record's fields counts and sorted JSON would lose it.
        return json.dumps([self.written, self.records], ensure_ascii=False, default=str)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "content": self._content()}


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return {key: _frozen(item) for key, item in value.items()} if isinstance(value, dict) else value
