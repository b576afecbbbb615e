"""Which documents train and which validate; no text does both.

n documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from llmspec.core.problems import DataError, Problem
from llmspec.data.preferences import Compared
from llmspec.data.shaping import Dropped
from llmspec.parts.sources import Document, Validation
from llmspec.parts.templates.base import Pieces, Turn

if TYPE_CHECKING:
    import numpy as np

TRAINS, VALIDATES, BORDER = 0, 1, 2
"""Sides of a document; of a text on the border, the first part trains and the rest validates."""
SIDES = ("train", "validation")
"""Names of the sides' files, in the order of TRAINS and VALIDATES."""


class Shaped(NamedTuple):
    """A document, or a stretch of one, with what is made of it; None where that form is dropped or not wanted."""

    document: Document
    text: str
    """What it is recognised by: its plain text, or its whole record where that has none."""
    plain: Pieces | None
    turns: list[Turn] | None = None
    dropped: Mapping[str, Dropped] = {}
    """Form -> why the document is not read in it."""
    compared: Compared | None = None
    """The answers that it compares, whether anybody reads them or not: records with one prompt are on one side."""


def joined(stretches: Iterable[Shaped]) -> Iterator[Shaped]:
    """Whole documents."""
    held: list[Shaped] = []
    for item in stretches:
        if not held and not item.document.more:
            yield item
            continue
        held.append(item)
        if not item.document.more:
            text = "".join(found.text for found in held)
            yield Shaped(item.document._replace(text=text), text, (text,))
            held = []


def tail(lengths: np.ndarray, records: np.ndarray, fraction: float) -> tuple[np.ndarray, int, int]:
    """The last share by characters: (n,) sides, the text on the border (-1: none), and how far into it that lies.

    A record goes where most of it is.
    """
    import numpy as np

    before = np.cumsum(lengths) - lengths
    cut = round(int(lengths.sum()) * (1 - fraction)) - before
    sides = np.where(cut <= 0, VALIDATES, TRAINS).astype(np.uint8)
    for i in np.flatnonzero((cut > 0) & (cut < lengths)).tolist():
        if not records[i]:
            sides[i] = BORDER
            return sides, i, int(cut[i])
        sides[i] = TRAINS if 2 * cut[i] >= lengths[i] else VALIDATES
    return sides, -1, 0


def chosen(how: Validation, name: str, text_digest: bytes) -> bool:
    """Whether a document validates: by its file's name, or by its text's sha256, so that equal texts stay together."""
    if how.how == "files":
        return fnmatchcase(name, how.value) or PurePosixPath(name).match(how.value)
    return how.how == "hash" and int.from_bytes(text_digest[:8]) / 2**64 < how.fraction


def text_digest(text: str) -> bytes:
    """sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Cut(NamedTuple):
    """Where a text is cut in two, and which of the sides are more than white space."""

    at: int
    trains: bool
    validates: bool


def cut(stretches: Iterable[str], near: int) -> Cut:
    """The text in two, at the first line end from `near` on; without one, at the last before it, or else at `near`."""
    begin = 0
    after, before, first, last = -1, -1, -1, -1
    for text in stretches:
        if first < 0 and (inside := text.lstrip()):
            first = begin + len(text) - len(inside)
        if inside := text.rstrip():
            last = begin + len(inside) - 1
        if after < 0 and (found := text.find("\n", max(0, near - 1 - begin))) >= 0:
            after = begin + found
        if begin < near and (found := text.rfind("\n", 0, near - begin)) >= 0:
            before = begin + found
        begin += len(text)
    at = after + 1 if after >= 0 and last > after else before + 1
    if first < 0 or first >= at:
        at = near
    return Cut(at, 0 <= first < at, last >= at)


def one_sided(how: Validation, what: str, documents: int, names: Iterable[str]) -> DataError:
    """The problem of a split with nothing on one side."""
    hint = f"choose another share; there are {documents} documents, and records are never cut"
    if documents == 1:
        hint = "there is only one record, and records are never cut: add more, or validate with another source"
    if how.how == "files":
        shown = sorted(set(islice(names, 1000)))
        hint = f"its files: {', '.join(shown[:6])}{' ...' if len(shown) > 6 else ''}"
    return DataError(
        Problem(
            f"`validation: {how}` leaves nothing {what}",
            ("validation",),
            hint,
            "there would be no loss to train or to judge by",
        )
    )
