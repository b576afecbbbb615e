"""Where the turns lie that are learned, in tokens of dialogues.

P turns, n documents, R roles (the order of ROLES).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from llmspec.data.tokens import TokenSet
from llmspec.parts.phases.turns import Turns
from llmspec.parts.tokenizers import Codec
from llmspec.parts.tokenizers.special_tokens import ROLES

AT_ONCE = 1 << 22
"""Tokens of dialogues that are looked through at once."""


class Spans(NamedTuple):
    """Stretches of tokens that one role says, in order."""

    dialogue: np.ndarray
    """(P,) int64."""
    begin: np.ndarray
    """(P,) int64 first place."""
    end: np.ndarray
    """(P,) int64 one past the last place."""

    @property
    def last(self) -> Spans:
        """Of each dialogue that has any, the last one."""
        kept = np.append(self.dialogue[1:] != self.dialogue[:-1], True)[: len(self.dialogue)]
        return Spans(*(column[kept] for column in self))


def spans(data: TokenSet, turns: Turns) -> Spans:
    """The turns that are learned."""
    wanted = np.zeros(len(ROLES) + 1, bool)
    wanted[[1 + i for i in turns.learned]] = True
    found = [_of_some(data, wanted, first, last) for first, last in _chunks(data)]
    empty = [np.zeros(0, np.int64)] * 3
    every = Spans(*(np.concatenate(parts) for parts in zip(empty, *found, strict=True)))
    return every.last if turns.last else every


def _chunks(data: TokenSet) -> Iterator[tuple[int, int]]:
    """(first dialogue, one past the last) of stretches of about AT_ONCE tokens."""
    first, n = 0, len(data.lengths)
    while first < n:
        last = int(np.searchsorted(data.offsets, data.offsets[first] + AT_ONCE, side="right")) - 1
        last = min(n, max(first + 1, last))
        yield first, last
        first = last


def _of_some(data: TokenSet, wanted: np.ndarray, first: int, last: int) -> tuple[np.ndarray, ...]:
    offset, stop = int(data.offsets[first]), int(data.offsets[last])
    codes = data.codes(np.arange(offset, stop))
    said = np.where(wanted[codes], codes, 0)
    begins, ends = said > 0, said > 0
    same = said[1:] == said[:-1]
    begins[1:] &= ~same
    ends[:-1] &= ~same
    # A dialogue's last token and the next one's first are of different turns.
    inner = data.offsets[first:last] - offset
    inner = inner[inner < len(said)]
    begins[inner] = said[inner] > 0
    ends[inner[inner > 0] - 1] = said[inner[inner > 0] - 1] > 0
    begin, end = np.flatnonzero(begins) + offset, np.flatnonzero(ends) + offset + 1
    return np.searchsorted(data.offsets, begin, side="right") - 1, begin, end


def assistant_first(data: TokenSet) -> int:
    """Dialogues in which the assistant speaks before any user; 0 of plain documents."""
    if data.role_of_token is None:
        return 0
    user, assistant = (1 + ROLES.index(role) for role in ("user", "assistant"))
    found = 0
    for first, last in _chunks(data):
        offset, stop = int(data.offsets[first]), int(data.offsets[last])
        codes = data.codes(np.arange(offset, stop))
        said = np.flatnonzero((codes == user) | (codes == assistant))
        begins, ends = data.offsets[first:last] - offset, data.offsets[first + 1 : last + 1] - offset
        at = np.append(said, len(codes))[np.searchsorted(said, begins)]
        found += int((codes[at[at < ends]] == assistant).sum())
    return found


def spelled(codec: Codec, ids: np.ndarray) -> int:
    """Characters that tokens spell; special tokens spell none."""
    tokens, counts = np.unique(ids, return_counts=True)
    # Of a character's bytes in UTF-8, one alone does not begin with the bits 10.
    begun = [sum(byte & 0xC0 != 0x80 for byte in codec.token_bytes(int(token))) for token in tokens]
    return int(np.dot(np.array(begun, np.int64), counts))
