"""Which documents train and which validate; no text does both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

from llmspec.core.problems import DataError, Problem
from llmspec.data.shaping import Dropped, Pieces, Turn
from llmspec.parts.sources import Document, Validation


class Shaped(NamedTuple):
    """A document with what is made of it; None where that form is dropped or not wanted."""

    document: Document
    text: str
    """What it is recognised by: its plain text, or its whole record where that has none."""
    plain: Pieces | None
    turns: list[Turn] | None = None
    dropped: Mapping[str, Dropped] = {}
    """Form -> why the document is not read in it."""


class Split(NamedTuple):
    """Documents in their order, each on one side."""

    train: list[Shaped]
    validation: list[Shaped]


def split(items: Sequence[Shaped], how: Validation | None) -> Split:
    """Split documents as `how` says. Raises DataError where one of the sides stays empty."""
    if how is None:
        return Split(list(items), [])
    if how.how == "tail":
        sides = _tail(items, how.fraction)
    elif how.how == "hash":
        sides = _sides(items, [_fraction(item.text) < how.fraction for item in items])
    else:
        sides = _sides(items, [_matches(item.document.name, how.value) for item in items])
    if not sides.validation:
        raise _one_sided(items, how, "to validate with")
    if not sides.train:
        raise _one_sided(items, how, "to train on")
    return sides


def text_key(text: str) -> bytes:
    """What makes two texts the same one: 16 bytes of their sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _one_sided(items: Sequence[Shaped], how: Validation, what: str) -> DataError:
    names = sorted({item.document.name for item in items})
    hint = f"choose another share; there are {len(items)} documents, and records are never cut"
    if how.how == "files":
        hint = f"its files: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
    return DataError(Problem(f"`validation: {how}` leaves nothing {what}", ("validation",), hint,
                             "there would be no loss to train or to judge by"))


def _sides(items: Sequence[Shaped], validates: Sequence[bool]) -> Split:
    both = list(zip(items, validates, strict=True))
    return Split([item for item, chosen in both if not chosen], [item for item, chosen in both if chosen])


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, so that equal texts stay together."""
    return int.from_bytes(text_key(text)[:8]) / 2**64


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or PurePosixPath(name).match(pattern)


def _tail(items: Sequence[Shaped], fraction: float) -> Split:
    """The last share by characters. A text on the border is cut at a line end; a record goes where most of it is."""
    border = round(sum(len(item.text) for item in items) * (1 - fraction))
    sides = Split([], [])
    start = 0
    for item in items:
        length, cut = len(item.text), border - start
        if cut <= 0:
            sides.validation.append(item)
        elif cut >= length:
            sides.train.append(item)
        elif item.document.record is not None or item.plain is None:
            (sides.train if 2 * cut >= length else sides.validation).append(item)
        else:
            for side, text in zip(sides, _cut(item.text, cut), strict=True):
                if text.strip():
                    side.append(item._replace(document=item.document._replace(text=text), text=text, plain=(text,)))
        start += length
    return sides


def _cut(text: str, near: int) -> tuple[str, str]:
    """The text in two, at the first line end from `near` on; without one, at the last before it, or else at `near`."""
    at = text.find("\n", near - 1) + 1
    if not at or not text[at:].strip():
        at = text.rfind("\n", 0, near) + 1
    if not text[:at].strip():
        at = near
    return text[:at], text[at:]
