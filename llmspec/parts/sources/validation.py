"""Which documents of a source are kept for validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from llmspec.core.units import Share, Text
from llmspec.parts.sources.template import parse


class Validation(Text):
    """What is kept for validation: `tail 10%`, `hash 5%`, `hash 10% by {author}` or `files plays/*.md`."""

    examples: ClassVar[tuple[str, ...]] = ("tail 10%", "hash 5%", "hash 10% by {author}", "files plays/*.md")

    def __init__(self, how: str, value: str, by: str = "") -> None:
        self.how, self.value, self.by = how, value, by

    @classmethod
    def parse(cls, value: object) -> Validation:
        how, _, rest = str(value).strip().partition(" ")
        rest = rest.strip()
        by = ""
        if how == "hash" and (grouped := re.fullmatch(r"(\S+(?: ?%)?)\s+by\s+(.*)", rest, re.DOTALL)):
            rest, by = grouped[1], grouped[2].strip()
            if not any(piece.field for piece in parse(by)):
                raise ValueError(f"`by {by}` names no field of a record; write `hash {rest} by {{{by or 'author'}}}`")
        if how in ("tail", "hash"):
            share = Share.parse(rest)
            if 0 < share.percent < 100:
                return cls(how, str(share), by)
            what = "train on" if share.percent else "validate with"
            raise ValueError(f"`{how} {rest}` would leave nothing to {what}: the share lies between 0% and 100%")
        elif how == "files" and rest:
            return cls(how, rest)
        amount = str(value).strip()
        if re.fullmatch(r"[\d.]+\s*%|0?\.\d+", amount):
            percent = amount if amount.endswith("%") else f"{float(amount) * 100:g}%"
            raise ValueError(f"write `tail {percent}` (the last documents) or `hash {percent}` (some from everywhere)")
        raise ValueError(
            "expected `tail 10%` (the last tenth), `hash 5%` (by document), `hash 5% by {field}` (equal fields stay "
            "together) or `files PATTERN`"
        )

    @property
    def fraction(self) -> float:
        """Share of a `tail` or `hash`."""
        return Share.parse(self.value).fraction

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of records by which a `hash` keeps documents together; none where it goes by their text."""
        return tuple(piece.text for piece in parse(self.by) if piece.field)

    def group(self, record: Mapping[str, Any] | None) -> str | None:
        """What is hashed of a record, documents of equal groups being on the same side; None where it has not every
        field, or where the text is hashed."""
        if not self.by or record is None or any(record.get(name) is None for name in self.fields):
            return None
        return "".join(str(record[piece.text]) if piece.field else piece.text for piece in parse(self.by))

    def __str__(self) -> str:
        return f"{self.how} {self.value}" + (f" by {self.by}" if self.by else "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Validation) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))
