"""Documents to text and to dialogues, each by itself: what is learned of it, or the one reason why it is not.

A record's fields go into templates as plain text that spells nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import isfinite, isnan
from typing import Any, NamedTuple

from llmspec.core.problems import DataError
from llmspec.data.formats import ALIASES, MESSAGE_KEYS, Format, is_metadata, recognised, recognised_prompt, text_field
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.template import Piece, parse
from llmspec.parts.sources.word_lists import words_in
from llmspec.parts.templates.base import Marker, Pieces, Turn
from llmspec.parts.tokenizers.base import utf8
from llmspec.parts.tokenizers.special_tokens import ROLES, ChatRole

EMPTY, ROLE, NOT_TEXT, UNREADABLE, FORMAT = "empty", "unknown role", "not text", "unreadable", "unknown format"
"""Reasons for which a document is dropped before anything else is known than the document itself."""
REFUSED = "refused by the chat template"
"""Reason for which a dialogue is dropped that a template of others will not write, or whose words it does not tell."""
UNLABELLED, UNLISTED, SEVERAL = "without a label", "of a label that is not listed", "of several labels"
"""Reasons for which a document with something to learn beside its text is dropped."""
UNNUMBERED = "whose label is no number"
UNTAGGED, MISFIT, UNNAMED = "without tags", "with another number of tags than of words", "of a tag without a name"
VALIDATED, TOO_LONG, NOTHING_LEARNED = "also in validation", "too long", "no turn to train on"
NOTHING_BEFORE = "nothing before an answer"
NO_PAIR = "no pair of one question and its answer"
"""Reasons that come of other documents, of the context and of the roles that a phase learns."""

CODES: Mapping[ChatRole, int] = {role: 1 + i for i, role in enumerate(ROLES)}
"""What files of tokens hold for each role's words; 0 is nobody's."""


class Dropped(NamedTuple):
    """Why a document is not read, and what was found in it."""

    reason: str
    detail: str = ""


class Unfit(Exception):
    """Ends the shaping of a document that is dropped."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.dropped = Dropped(reason, detail)


def plain_text(source: Source, document: Document, markers: Sequence[str] = ()) -> Pieces | Dropped:
    """A document as plain text, or why it is none.

    Without `text:`, a dialogue is its contents with blank lines between; any other record is its field `text` or
    `content`, or else its texts in order, without identifiers, URLs and dates.
    """
    try:
        return _plain(source, document, markers)
    except Unfit as unfit:
        return unfit.dropped


def _plain(source: Source, document: Document, markers: Sequence[str]) -> Pieces:
    record = document.record
    if record is None:
        if source.text is not None:
            raise Unfit(FORMAT, "plain text, without the fields that `text:` needs")
        return _some((_checked(document.text),))
    if source.text is not None:
        return _some(fill(source.text, record, markers))
    if source.words is not None:
        return _some((_checked(" ".join(words_in(record.get(source.told("words")[0])) or ())),))
    if source.messages is not None:
        return _joined(messages_of(record.get(source.messages), source.messages))
    if source.prompt is not None and source.asks_alone:
        return _some(fill(source.prompt, record, markers))
    if source.source is not None:
        asks, answers = (fill(template, record, markers) for _, template in source.rounds)
        return _some(_merged((*asks, *(("\n\n",) if asks and answers else ()), *answers)))
    if source.dialogue is None:
        if name := text_field(record):
            return _some((_text(record, name),))
        if form := recognised(record):
            return _joined(_formatted(form, record))
    texts = [
        value
        for name, value in record.items()
        if isinstance(value, str) and value.strip() and (source.dialogue is not None or not is_metadata(name, value))
    ]
    return _some((_checked("\n\n".join(texts)),))


def dialogue(source: Source, document: Document, markers: Sequence[str] = ()) -> list[Turn] | Dropped:
    """A document's turns, or why they are none.

    An empty turn of `system` or `developer` is left out, and so is a round of `dialogue:` that is empty as a whole;
    a question or an answer that is empty drops the dialogue.
    """
    try:
        turns = _turns(source, document, markers)
        silent = next((turn.role for turn in turns if not turn.content and turn.role in ("user", "assistant")), None)
        if silent:
            of_pair = {"user": "its source", "assistant": "its target"} if source.source is not None else {}
            raise Unfit(EMPTY, of_pair.get(silent, f"a turn of {silent}"))
        turns = [turn for turn in turns if turn.content]
        if not turns:
            raise Unfit(EMPTY, "no turn")
        return turns
    except Unfit as unfit:
        return unfit.dropped


def _turns(source: Source, document: Document, markers: Sequence[str]) -> list[Turn]:
    """All turns in order; an empty one has no content."""
    record = document.record
    if record is None:
        raise Unfit(FORMAT, "plain text, without fields")
    if source.messages is not None:
        return messages_of(record.get(source.messages), source.messages)
    if source.source is not None or source.asks_alone:
        return [Turn(role, fill(template, record, markers)) for role, template in source.rounds]
    if source.dialogue is None:
        form = recognised(record) or recognised_prompt(record)
        if form is None:
            raise Unfit(FORMAT, f"it has {', '.join(map(str, record))}")
        return _formatted(form, record)
    turns: list[Turn] = []
    for round_ in (source.dialogue,) if isinstance(source.dialogue, dict) else source.dialogue:
        found = [Turn(role, fill(template, record, markers)) for role, template in round_.items()]
        turns += found if any(turn.content for turn in found) else []
    return turns


def _formatted(form: Format, record: Mapping[str, Any]) -> list[Turn]:
    """The turns of a record of a recognised format."""
    turns = [turn for name in form.lists for turn in messages_of(record[name], name)]
    made = [Turn(role, fill(template, record)) for role, template in form.turns]
    earlier = record.get(form.history) or () if form.history else ()
    pairs = earlier if isinstance(earlier, list | tuple) else (None,)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Unfit(UNREADABLE, f"`{form.history}` is not a list of pairs")
    between = [
        turn
        for user, assistant in pairs
        for turn in (
            Turn("user", content_of(user, form.history)),
            Turn("assistant", content_of(assistant, form.history)),
        )
    ]
    return [*turns, *made[:1], *between, *made[1:]]


# -- templates -----------------------------------------------------------------------------------------------------
class _Line(NamedTuple):
    """A line of a template, and the line ends after it: two or more end a paragraph."""

    pieces: tuple[Piece | Marker, ...]
    ends: str


class _Part(NamedTuple):
    """A piece of a line with its text; `field` names the field that it is."""

    text: str
    field: str = ""

    @property
    def empty(self) -> bool:
        return bool(self.field) and not self.text.strip()


def fill(template: str, record: Mapping[str, Any], markers: Sequence[str] = ()) -> Pieces:
    """The template with the record's fields in place; () where all of them are empty.

    A field that the record has not is empty. A paragraph whose fields are all empty is left out, and so is such a
    line; an empty field that spaces alone set apart from its neighbours goes with them. Any other drops the record.
    """
    lines = _lines(template, tuple(markers))
    filled = [
        [
            _Part(piece)
            if isinstance(piece, Marker)
            else _Part(_text(record, piece.text), piece.text)
            if piece.field
            else _Part(piece.text)
            for piece in line.pieces
        ]
        for line in lines
    ]
    fields = [part for parts in filled for part in parts if part.field]
    if any(part.empty for part in fields):
        if all(part.empty for part in fields):
            return ()
        return _merged(_without_empty(lines, filled))
    return _merged(
        text for line, parts in zip(lines, filled, strict=True) for text in (*(part.text for part in parts), line.ends)
    )


def filled(template: str, record: Mapping[str, Any]) -> Pieces | Dropped:
    """The same, or why it cannot be filled."""
    try:
        return fill(template, record)
    except Unfit as unfit:
        return unfit.dropped


def field_text(value: Any) -> str | None:
    """A value of a record as templates have it; None where it is no text and no number."""
    try:
        return _text({"": value}, "")
    except Unfit:
        return None


def _merged(texts: Iterable[str]) -> Pieces:
    """Texts joined from marker to marker: tokenised in one stretch, as they will be when a prompt spells them."""
    out: list[str] = []
    for text in texts:
        if out and not isinstance(text, Marker) and not isinstance(out[-1], Marker):
            out[-1] += text
        else:
            out.append(text)
    return tuple(text for text in out if text)


def _without_empty(lines: Sequence[_Line], filled: Sequence[list[_Part]]) -> list[str]:
    """The texts of the lines that stay; between two of them, the longest line ends that stood there."""
    silent: set[int] = set()
    begin = 0
    for i, line in enumerate(lines):
        if _silent(filled[i]):
            silent.add(i)
        if line.ends.count("\n") > 1 or i + 1 == len(lines):
            if _silent([part for parts in filled[begin : i + 1] for part in parts]):
                silent.update(range(begin, i + 1))
            begin = i + 1
    out: list[str] = []
    ends = ""
    for i, line in enumerate(lines):
        if i not in silent:
            out += [ends, *_without_spaces(filled[i])] if out else _without_spaces(filled[i])
            ends = line.ends
        elif out and line.ends.count("\n") > ends.count("\n"):
            ends = line.ends
    return out


def _silent(parts: Sequence[_Part]) -> bool:
    """Whether there are fields among the parts, and all are empty."""
    fields = [part for part in parts if part.field]
    return bool(fields) and all(part.empty for part in fields)


def _without_spaces(parts: Sequence[_Part]) -> list[str]:
    """A line's texts without its empty fields, each of which must stand between spaces, fields or the line's ends."""
    left = list(parts)
    while (i := next((i for i, part in enumerate(left) if part.empty), None)) is not None:
        around = [left[j] for j in (i - 1, i + 1) if 0 <= j < len(left)]
        if any(not part.field and (part.text.strip() or isinstance(part.text, Marker)) for part in around):
            raise Unfit(EMPTY, f"`{left[i].field}`")
        before = i > 0 and not left[i - 1].field
        after = i + 1 < len(left) and not left[i + 1].field
        del left[i - before : i + 1 + (after and not before)]
    return [part.text for part in left]


@lru_cache(maxsize=256)
def _lines(template: str, markers: tuple[str, ...]) -> tuple[_Line, ...]:
    """The template's lines, with the markers in its literal text set apart."""
    ends = re.compile(r"(\n\s*\n|\n)")
    lines: list[_Line] = []
    pieces: list[Piece | Marker] = []
    for piece in _pieces(template, markers):
        if isinstance(piece, Marker) or piece.field:
            pieces.append(piece)
            continue
        for i, text in enumerate(ends.split(piece.text)):
            if i % 2:
                lines.append(_Line(tuple(pieces), text))
                pieces = []
            elif text:
                pieces.append(Piece(text, False))
    return (*lines, _Line(tuple(pieces), ""))


def _pieces(template: str, markers: tuple[str, ...]) -> list[Piece | Marker]:
    split = re.compile("(" + "|".join(re.escape(m) for m in sorted(markers, key=len, reverse=True)) + ")")
    out: list[Piece | Marker] = []
    for piece in parse(template):
        if piece.field or not markers:
            out.append(piece)
            continue
        out += [Marker(part) if part in markers else Piece(part, False) for part in split.split(piece.text) if part]
    return out


def _text(record: Mapping[str, Any], name: str) -> str:
    """A field as text; "" where the record has it not."""
    value = record.get(name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not isfinite(value):
        if isnan(value):  # how tables write that there is none
            return ""
        raise Unfit(NOT_TEXT, f"`{name}` holds no finite number")
    if isinstance(value, str | int | float):
        return _checked(str(value))
    raise Unfit(NOT_TEXT, f"`{name}` holds {'a map' if isinstance(value, dict) else 'a list'}")


# -- messages ------------------------------------------------------------------------------------------------------
def messages_of(value: Any, field: str) -> list[Turn]:
    """The turns of a list of {role, content} or {from, value}."""
    if value is None:
        return []
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, list | tuple):
        raise Unfit(UNREADABLE, f"`{field}` is not a list")
    turns = []
    for i, message in enumerate(value, 1):
        keys = next((keys for keys in MESSAGE_KEYS if isinstance(message, dict) and keys[0] in message), None)
        if keys is None:
            raise Unfit(UNREADABLE, f"entry {i} of `{field}` has no `role`")
        role = ALIASES.get(str(message[keys[0]]).strip().lower())
        if role is None:
            raise Unfit(ROLE, f"`{message[keys[0]]}`")
        content = content_of(message.get(keys[1]), field)
        if not content and (message.get("tool_calls") or message.get("function_call")):
            raise Unfit(NOT_TEXT, f"entry {i} of `{field}` calls a tool")
        turns.append(Turn(role, content))
    return turns


def _parsed(text: str) -> Any:
    """What a text says that is JSON, as tables hold lists; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def content_of(value: Any, field: str) -> Pieces:
    """What a message says: a text, a number, or a list of OpenAI's content parts, which are joined."""
    if isinstance(value, list | tuple):
        texts = [
            part
            if isinstance(part, str)
            else part.get("text")
            if isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS
            else None
            for part in value
        ]
        if any(not isinstance(text, str) for text in texts):
            kinds = [str(part.get("type", "?")) if isinstance(part, dict) else type(part).__name__ for part in value]
            raise Unfit(
                NOT_TEXT,
                f"a part of kind `{next(k for k in kinds if k not in TEXT_PARTS)}`"
                if set(kinds) - set(TEXT_PARTS)
                else f"a part without text in `{field}`",
            )
        value = "".join(map(str, texts))
    content = _text({field: value}, field)
    return (content,) if content.strip() else ()


TEXT_PARTS = ("text", "input_text", "output_text")
"""Kinds of content parts that are text."""


# -- both ----------------------------------------------------------------------------------------------------------
def _joined(turns: Sequence[Turn]) -> Pieces:
    """Contents with blank lines between."""
    return _some(("\n\n".join("".join(turn.content) for turn in turns if turn.content),))


def _some(pieces: Pieces) -> Pieces:
    if not "".join(pieces).strip():
        raise Unfit(EMPTY)
    return pieces


def _checked(text: str) -> str:
    """The text itself, where it can be written as UTF-8."""
    if not text.isascii():
        try:
            utf8(text)
        except DataError as error:
            raise Unfit(UNREADABLE, error.problems[0].message) from None
    return text
