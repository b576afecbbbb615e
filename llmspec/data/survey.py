"""What a first pass over a source finds of its documents: some fifty bytes of each, whatever their length.

n documents.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from llmspec.data.contamination import Alike, Content, alike, content, turns_alike
from llmspec.data.preferences import prompt_text
from llmspec.data.split import BORDER, TRAINS, VALIDATES, Cut, Shaped, chosen, cut, one_sided, tail, text_digest
from llmspec.parts.sources import Validation

Read = Callable[[], Iterator[Shaped]]
"""Reads a source from its beginning: every stretch of every document."""
_PLAIN, _SPEAKS, _RECORD, _CHOSEN, _COMPARES = 1, 2, 4, 8, 16


class Survey(NamedTuple):
    """A source's documents by number."""

    lengths: np.ndarray
    """(n,) int64 characters of the text that a document is recognised by."""
    characters: np.ndarray
    """(n,) int64 characters of its plain text, markers excluded."""
    plain: np.ndarray
    """(n,) bool: it has a plain text."""
    speaks: np.ndarray
    """(n,) bool: it has a dialogue."""
    text_keys: np.ndarray
    """(n,) S16: what `alike` says of its text."""
    dialogue_keys: np.ndarray
    """(n,) S16: what `turns_alike` says of its dialogue, where it has one."""
    sides: np.ndarray
    """(n,) uint8: TRAINS, VALIDATES or BORDER."""
    border: int
    """The text on the border; -1 where there is none."""
    cut: Cut
    halves: tuple[bytes, bytes]
    """What `alike` says of the two parts of the text on the border."""
    compares: np.ndarray
    """(n,) bool: it compares answers."""
    prompt_keys: np.ndarray
    """(c,) S16: of each that does, what `turns_alike` says of its prompt."""
    comparison_keys: np.ndarray
    """(c,) S16: the same of the prompt and all answers."""

    @property
    def documents(self) -> int:
        return len(self.lengths)

    def on(self, side: int) -> np.ndarray:
        """(n,) bool: the document, or a part of it, is on that side."""
        found = self.sides == side
        if self.border >= 0:
            found[self.border] = self.cut.trains if side == TRAINS else self.cut.validates
        return found

    def keys(self, side: int) -> np.ndarray:
        """(n,) S16 keys of texts as that side has them."""
        if self.border < 0:
            return self.text_keys
        found = self.text_keys.copy()
        found[self.border] = self.halves[side]
        return found

    def contents(self) -> dict[str, Content]:
        """By form that occurs: the set of texts, or of dialogues."""
        forms = {"plain": self.text_keys[self.plain], "dialogue": self.dialogue_keys[self.speaks]}
        if len(self.prompt_keys):
            forms["preference"] = self.comparison_keys
        return {form: content(keys) for form, keys in forms.items() if len(keys)}


def survey(read: Read, how: Validation | None) -> Survey:
    """Read every document once, and the text on the border twice more. Raises DataError where a side stays empty."""
    found = _Columns(how)
    for item in read():
        found.add(item)
    flags = np.frombuffer(bytes(found.flags), np.uint8)
    lengths, characters = (np.frombuffer(column, np.int64) for column in (found.lengths, found.characters))
    border, part, halves = -1, Cut(0, True, True), (b"", b"")
    if how is not None and how.how == "tail":
        sides, border, near = tail(lengths, flags & _RECORD > 0, how.fraction)
        if border >= 0:
            part, halves = _halved(read, border, near)
    else:
        sides = np.where(flags & _CHOSEN, VALIDATES, TRAINS).astype(np.uint8)
    made = Survey(
        lengths,
        characters,
        flags & _PLAIN > 0,
        flags & _SPEAKS > 0,
        np.frombuffer(found.text_keys, "S16"),
        np.frombuffer(found.dialogue_keys, "S16"),
        sides,
        border,
        part,
        halves,
        flags & _COMPARES > 0,
        np.frombuffer(found.prompt_keys, "S16"),
        np.frombuffer(found.comparison_keys, "S16"),
    )
    for side, what in ((VALIDATES, "to validate with"), (TRAINS, "to train on")):
        if how is not None and not made.on(side).any():
            raise one_sided(how, what, made.documents, (item.document.name for item in read()))
    return made


class _Columns:
    """The columns of a survey as they grow."""

    def __init__(self, how: Validation | None) -> None:
        self._how = how
        self.lengths, self.characters, self.flags = array("q"), array("q"), bytearray()
        self.text_keys, self.dialogue_keys = bytearray(), bytearray()
        self.prompt_keys, self.comparison_keys = bytearray(), bytearray()
        self._long: _Long | None = None

    def add(self, item: Shaped) -> None:
        """The next stretch."""
        if self._long is None and not item.document.more:
            digest = b""
            if self._how is not None and self._how.how == "hash":
                group = self._how.group(item.document.record)
                own = item.text if item.compared is None else prompt_text(item.compared)
                digest = text_digest(own if group is None else group)
            characters = sum(len(p) for p in item.plain if type(p) is str) if item.plain is not None else 0
            self._row(item, len(item.text), characters, alike(item.text), digest)
            return
        self._long = long = self._long or _Long()
        long.add(item.text)
        if not item.document.more:
            self._row(item, long.length, long.length, long.alike.digest(), long.text.digest())
            self._long = None

    def _row(self, item: Shaped, length: int, characters: int, key: bytes, digest: bytes) -> None:
        self.lengths.append(length)
        self.characters.append(characters)
        self.text_keys += key
        self.dialogue_keys += turns_alike(item.turns) if item.turns else bytes(16)
        if (found := item.compared) is not None:
            self.prompt_keys += turns_alike(found.prompt)
            self.comparison_keys += turns_alike([*found.prompt, *(turns[-1] for turns in found.dialogues)])
        picked = self._how is not None and chosen(self._how, item.document.name, digest)
        self.flags.append(
            _PLAIN * (item.plain is not None)
            | _SPEAKS * bool(item.turns)
            | _RECORD * (item.document.record is not None)
            | _CHOSEN * picked
            | _COMPARES * (item.compared is not None)
        )


class _Long:
    """Sums over a text that comes in stretches."""

    def __init__(self) -> None:
        self.length, self.alike, self.text = 0, Alike(), hashlib.sha256()

    def add(self, text: str) -> None:
        self.length += len(text)
        self.alike.add(text)
        self.text.update(text.encode("utf-8", "surrogatepass"))


def _halved(read: Read, border: int, near: int) -> tuple[Cut, tuple[bytes, bytes]]:
    """Where the text on the border is cut, and the keys of its parts."""
    part = cut(_texts(read, border), near)
    sums, begin = (Alike(), Alike()), 0
    for text in _texts(read, border):
        inside = max(0, part.at - begin)
        for found, piece in zip(sums, (text[:inside], text[inside:]), strict=True):
            if piece:
                found.add(piece)
        begin += len(text)
    return part, (sums[0].digest(), sums[1].digest())


def _texts(read: Read, number: int) -> Iterator[str]:
    """The stretches of one document."""
    for item in read():
        if number == 0:
            yield item.text
        if not item.document.more:
            number -= 1
            if number < 0:
                return


def walk(read: Read, found: Survey) -> Iterator[tuple[int, int, Shaped]]:
    """(side, number, stretch) of every stretch of every document; of the text on the border, parts.

    Raises Changed where the documents are not those of the survey.
    """
    number = length = 0
    for item in read():
        if number >= found.documents:
            raise Changed
        if found.sides[number] == BORDER:
            yield from _parts(item, number, length, found.cut)
        else:
            yield int(found.sides[number]), number, item
        length += len(item.text)
        if not item.document.more:
            if length != found.lengths[number]:
                raise Changed
            number, length = number + 1, 0
    if number != found.documents:
        raise Changed


class Changed(Exception):
    """The documents are not what they were in an earlier pass."""


def _parts(item: Shaped, number: int, begin: int, part: Cut) -> Iterator[tuple[int, int, Shaped]]:
    """What a stretch that begins at `begin` has before and after the cut."""
    inside = max(0, part.at - begin)
    before, after = item.text[:inside], item.text[inside:]
    if before and part.trains:
        yield TRAINS, number, _stretch(item, before, part.at > begin + len(item.text))
    if after and part.validates:
        yield VALIDATES, number, _stretch(item, after, item.document.more)


def _stretch(item: Shaped, text: str, more: bool) -> Shaped:
    return Shaped(item.document._replace(text=text, more=more), text, (text,))
