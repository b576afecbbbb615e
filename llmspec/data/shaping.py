"""Documents to text and to dialogues: a record's fields go into templates as plain text that spells nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from llmspec.core.problems import DataError, one_of
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.template import Piece, parse
from llmspec.parts.tokenizers.base import ROLES, ChatRole, utf8


class Marker(str):
    """A marker that a template spells: becomes its one id, where text that looks like it does not."""

    __slots__ = ()


Pieces = tuple[str, ...]
"""Text in stretches: each is a `Marker` or plain text; empty stretches are left out."""


class Turn(NamedTuple):
    """One turn of a dialogue."""

    role: ChatRole
    content: Pieces


def plain_text(source: Source, document: Document, markers: Sequence[str] = ()) -> Pieces | None:
    """A document as plain text, or None where a field it needs is empty.

    Without `text:` a record is its texts in order, with blank lines between; one of messages is their contents.

    Raises:
        DataError: an unknown field, a field that is no text, or a template for a document that has no fields.
    """
    record = document.record
    if record is None:
        if source.text is not None:
            raise _no_record(document, "text")
        utf8(document.text)
        return (document.text,) if document.text.strip() else None
    if source.text is not None:
        return fill(source.text, document, markers)
    if source.messages is not None:
        turns = _messages(source.messages, document)
        texts = ["".join(turn.content) for turn in turns or ()]
    else:
        texts = [value for value in record.values() if isinstance(value, str) and value.strip()]
    text = "\n\n".join(texts)
    _check_utf8(text, document)
    return (text,) if text else None


def dialogue(source: Source, document: Document, markers: Sequence[str] = ()) -> list[Turn] | None:
    """A document's turns, or None where a field they need is empty. Raises DataError as `plain_text` does."""
    if document.record is None:
        raise _no_record(document, "dialogue" if source.dialogue is not None else "messages")
    if source.messages is not None:
        return _messages(source.messages, document)
    turns = []
    for role, template in source.rounds:
        content = fill(template, document, markers)
        if content is None:
            return None
        turns.append(Turn(role, content))
    return turns


def fill(template: str, document: Document, markers: Sequence[str] = ()) -> Pieces | None:
    """The template with the record's fields in place, or None where one of them is empty."""
    out: list[str] = []
    for piece in _pieces(template, tuple(markers)):
        if isinstance(piece, Marker):
            out.append(piece)
            continue
        text = _field(document, piece.text) if piece.field else piece.text
        if piece.field and not text.strip():
            return None
        # Text is tokenised in one stretch from marker to marker, as it will be when a prompt spells it.
        if out and not isinstance(out[-1], Marker):
            out[-1] += text
        else:
            out.append(text)
    return tuple(piece for piece in out if piece)


@lru_cache(maxsize=256)
def _pieces(template: str, markers: tuple[str, ...]) -> tuple[Piece | Marker, ...]:
    """The template's pieces with the markers in its literal text set apart."""
    if not markers:
        return parse(template)
    split = re.compile("(" + "|".join(re.escape(m) for m in sorted(markers, key=len, reverse=True)) + ")")
    out: list[Piece | Marker] = []
    for piece in parse(template):
        if piece.field:
            out.append(piece)
            continue
        out += [Marker(part) if part in markers else Piece(part, False) for part in split.split(piece.text) if part]
    return tuple(out)


def _field(document: Document, name: str) -> str:
    record: dict[str, Any] = document.record or {}
    if name not in record:
        raise DataError(
            f"{document.where} has no field `{name}`; it has {', '.join(map(str, record))}",
            hint=one_of(name, [str(key) for key in record]), consequence="the template could not be filled",
        )
    value = record[name]
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        kind = "a map" if isinstance(value, dict) else "a list"
        raise DataError(
            f"{document.where}: field `{name}` holds {kind}, and a template takes texts and numbers",
            hint="name another field", consequence="its Python spelling would be learned",
        )
    _check_utf8(value, document)
    return value


def _messages(field: str, document: Document) -> list[Turn] | None:
    record: dict[str, Any] = document.record or {}
    if field not in record:
        _field(document, field)
    if not isinstance(record[field], list | tuple):
        raise _bad_messages(document, field, "is not a list")
    turns = []
    for i, message in enumerate(record[field], 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _bad_messages(document, field, f"has an entry {i} without `role` and `content`")
        if message["role"] not in ROLES:
            raise DataError(
                f"{document.where}: `{field}` has an entry {i} of the unknown role `{message['role']}`",
                hint=one_of(str(message["role"]), ROLES), consequence="nobody would say it",
            )
        content = message["content"]
        if not isinstance(content, str | None):
            raise _bad_messages(document, field, f"has an entry {i} whose content is not a text")
        if not content or not content.strip():
            return None
        _check_utf8(content, document)
        turns.append(Turn(message["role"], (content,)))
    return turns or None


def _bad_messages(document: Document, field: str, what: str) -> DataError:
    return DataError(f"{document.where}: `{field}` {what}", hint='write [{"role": "user", "content": "..."}, ...]')


def _no_record(document: Document, key: str) -> DataError:
    return DataError(
        f"{document.where} is plain text, without the fields that `{key}:` needs",
        hint=f"take out `{key}:`, or read records from .jsonl or .json files",
        consequence="there would be nothing to fill the template with",
    )


def _check_utf8(text: str, document: Document) -> None:
    try:
        utf8(text)
    except DataError as error:
        problem = error.problems[0]
        raise DataError(f"{document.where}: {problem.message}", problem.hint, problem.consequence) from None
