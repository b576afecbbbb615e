"""What sources have in common whose text lies in files: how their records are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator, model_validator

from llmspec.parts.sources.base import Document, Fetcher, Found, Source
from llmspec.parts.sources.joining import read_joined
from llmspec.parts.sources.readers import read_files


class InFiles(Source):
    """Text in files: a document a record, or a document a file."""

    join: bool = False
    """Whether entries of one key in several JSON files are one record: its fields are `key`, and of each file its name
    without `.json` where the entry is a text, or that and the entry's own names, as in `{emoji.en}`."""
    columns: tuple[str, ...] = Field((), max_length=1000)
    """Names of the columns of tables that have no row of names above them, such as `[word, meaning]`. Files of other
    suffixes than .csv, such as .txt, are then tables with tabs between the fields and no quotes around them."""

    @field_validator("columns")
    @classmethod
    def _named_once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name, count in Counter(columns).items() if count > 1]:
            raise ValueError(f"`columns:` names `{twice[0][:60]}` twice; fields are told apart by their names")
        if any(not name.strip() or "{" in name or "}" in name for name in columns):
            raise ValueError(
                "a column is called by a name without braces, such as `word`; templates read it as `{word}`"
            )
        return columns

    @model_validator(mode="after")
    def _table_or_map(self) -> InFiles:
        if self.join and self.columns:
            raise ValueError("`join:` reads JSON files, and `columns:` tables; keep one")
        return self

    @property
    def how(self) -> dict[str, Any]:
        """Of a fingerprint: how files are read, where it is not the usual way."""
        columns = {"columns": list(self.columns)} if self.columns else {}
        return {**({"join": True} if self.join else {}), **columns, **({"lines": True} if self.asks_alone else {})}

    def read(self, found: list[Found], fetch: Fetcher, encoding: str = "utf-8") -> Iterator[Document]:
        """Documents of files, in order. Raises DataError."""
        if self.join:
            yield from read_joined(found, fetch, encoding)
        else:
            yield from read_files(found, fetch, encoding, self.columns, self.asks_alone)
