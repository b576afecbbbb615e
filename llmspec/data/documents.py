"""Whole documents into blocks, each between the special tokens of its tokenizer, with what is asked of it.

T tokens of a block, n documents, K documents of a block at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from llmspec.data.layout import Batch, Labels, shuffled
from llmspec.data.packing import PackedLayout, pad_after, ranges_from
from llmspec.data.shaping import TOO_LONG
from llmspec.data.tokens import TokenSet


class Asked(NamedTuple):
    """What is asked of each document of some tokens, and which of them are read at all."""

    kept: np.ndarray
    """(n,) bool."""
    targets: np.ndarray
    """(n·m, ...): as `Labels` has them, of every text of every document, of those that are not kept too."""
    weights: np.ndarray
    """(n·m,) float32: how much each counts."""
    dropped: Mapping[str, int]
    """Reason -> documents that are not read."""


class Asking(Protocol):
    """How a phase reads its documents, each of m texts that are read by themselves; mostly of one."""

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Special tokens before and behind each text."""

    @property
    def longest(self) -> int:
        """Tokens of a text at most, those included."""

    @property
    def truncation(self) -> bool:
        """Whether of longer ones the beginning is read."""

    @property
    def documents(self) -> int:
        """How many texts a row has room for."""

    def texts(self, data: TokenSet) -> tuple[np.ndarray, np.ndarray]:
        """(n, m) each: where the texts of documents begin in some tokens, and how many tokens they have."""

    def of(self, data: TokenSet) -> Asked:
        """What is asked of the documents of some tokens."""

    def blank(self, rows: int) -> Labels | None:
        """Of rows without a document; None where something is asked of tokens instead."""

    def named(self, target: Any) -> str:
        """A target in words."""

    def identity(self) -> Any:
        """JSON-able value of all that shapes batches beside the tokens."""


class Whole:
    """What askings have in common that read a document as one text."""

    def texts(self, data: TokenSet) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of each document."""
        return data.offsets[:-1, None], data.lengths[:, None]


class Texts(NamedTuple):
    """The texts of documents as a phase reads them; all of a document stand in one row."""

    begins: np.ndarray
    """(n, m) where each begins."""
    whole: np.ndarray
    """(n, m) its tokens, special ones around it included."""
    lengths: np.ndarray
    """(n, m) of those, how many are read."""
    fits: np.ndarray
    """(n,) bool: documents none of whose texts is too long."""


def texts_read(asking: Asking, data: TokenSet, context: int) -> Texts:
    """How the texts of some tokens are read in rows of `context`: where they are cut, the longest ones first."""
    begins, words = asking.texts(data)
    whole = words + sum(map(len, asking.around))
    lengths, m = np.minimum(whole, asking.longest), whole.shape[1]
    if m > 1:
        # Two texts share a row: the longer one has what the shorter one leaves, and no less than half.
        lengths = np.minimum(lengths, np.maximum(context - lengths.min(1, keepdims=True), context // m))
    fits = np.full(len(whole), True) if asking.truncation else (whole == lengths).all(1)
    return Texts(begins, whole, lengths, fits)


class Placed(NamedTuple):
    """Texts in the rows of a batch, (N,) each."""

    text: np.ndarray
    """Its number among the texts of all documents."""
    row: np.ndarray
    nth: np.ndarray
    """Its number in its row."""
    begins: np.ndarray
    """The place of its first token, special ones included, among those of all rows."""
    lengths: np.ndarray
    """Its tokens, those included."""


class DocumentLayout(PackedLayout):
    """Documents packed once into blocks, which every epoch reads in a new order. One decision is asked of each of their
    texts, which counts at its last token."""

    def __init__(self, data: TokenSet, asking: Asking, context: int, names: tuple[object, ...] | None) -> None:
        """`names` seed what is packed together and the order of blocks; None keeps the documents' own order."""
        self._data, self._asking, self._context, self._names = data, asking, context, names
        self._asked, self._texts = (asked := asking.of(data)), (texts := texts_read(asking, data, context))
        self.weighs = data.weights if names is not None else None
        read = asked.kept & texts.fits & (texts.whole > 0).all(1)
        self.cut = int((read & (texts.whole > texts.lengths).any(1)).sum())
        """Documents of which the beginning alone is read."""
        whole, m = texts.whole.sum(1), texts.whole.shape[1]
        self.needed = int(np.quantile(whole[asked.kept], 0.9, method="higher")) if asked.kept.any() else 0
        """Tokens that hold all but the longest tenth of the documents."""
        self.dropped = {**asked.dropped, TOO_LONG: int((asked.kept & ~texts.fits).sum())}
        self.kept = np.flatnonzero(read)
        order = self.kept if names is None else self.kept[shuffled(len(self.kept), *names, "packing")]
        self._arrange(order, texts.lengths.sum(1), self._teaches(), asking.documents // m)
        self.characters = int(data.characters[self.kept].sum())
        """Characters of the documents."""

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        T, data, (before, after) = self._context, self._data, self._asking.around
        packed = np.array([self._order(b // self._blocks)[b % self._blocks] for b in blocks.tolist()], np.int64)
        per_row = self._first[packed + 1] - self._first[packed]
        entry = ranges_from(self._first[packed], per_row)
        document, m = self._dialogue[entry], self._texts.whole.shape[1]
        text = (document[:, None] * m + np.arange(m)).reshape(-1)
        row, per_row = np.repeat(np.repeat(rows, per_row), m), per_row * m
        of_each = self._texts.lengths[document]
        lengths, inside = of_each.reshape(-1), (np.cumsum(of_each, axis=1) - of_each).reshape(-1)
        begins = row * T + np.repeat(self._start[entry], m) + inside
        tokens = batch.tokens.reshape(-1)
        words = lengths - len(before) - len(after)
        target = np.repeat(begins + len(before), words) + ranges_from(np.zeros_like(words), words)
        tokens[target] = data.ids(ranges_from(self._texts.begins.reshape(-1)[text], words))
        for i, token in enumerate(before):
            tokens[begins + i] = token
        for i, token in enumerate(after):
            tokens[begins + lengths - len(after) + i] = token
        filled = self._filled[packed]
        batch.filled[rows] = filled
        batch.repeated[rows] = np.where(blocks >= self._blocks, filled, 0)
        nth, places = ranges_from(np.zeros_like(per_row), per_row), ranges_from(np.zeros_like(lengths), lengths)
        everywhere = np.repeat(begins, lengths) + places
        batch.documents.reshape(-1)[everywhere] = np.repeat(nth, lengths)
        batch.positions.reshape(-1)[everywhere] = places
        pad_after(batch, rows, per_row, filled)
        self._ask(batch, Placed(text, row, nth, begins, lengths))

    def _teaches(self) -> np.ndarray:
        """(n,) how much is asked of each document."""
        return np.full(len(self._texts.whole), self._texts.whole.shape[1])

    def _ask(self, batch: Batch, placed: Placed) -> None:
        """Write what is asked of texts beside them."""
        assert batch.labels is not None, "the batch has room for labels"
        text, at = placed.text, (placed.row, placed.nth)
        batch.weights.reshape(-1)[placed.begins + placed.lengths - 1] = 1
        batch.labels.targets[at] = self._asked.targets[text]
        counts, m = self._asked.weights[text], self._texts.whole.shape[1]
        batch.labels.weights[at] = counts if self.weighs is None else counts * self.weighs[text // m]


def members(batch: Batch, documents: int, pooling: str) -> np.ndarray:
    """(B, K, T) float32: what of each token stands for each document: all alike (mean), its first (cls) or last."""
    rows, length = batch.tokens.shape
    found = np.zeros((rows, documents, length), np.float32)
    row, place = np.nonzero(np.arange(length) < batch.filled[:, None])
    number = batch.documents[row, place]
    if pooling == "mean":
        sizes = np.zeros((rows, documents), np.float32)
        np.add.at(sizes, (row, number), 1)
        found[row, number, place] = 1 / sizes[row, number]
        return found
    other = np.ones(len(row), bool)  # of each document, the first or the last of its tokens
    same = (row[1:] == row[:-1]) & (number[1:] == number[:-1])
    chosen = np.concatenate([other[:1], ~same]) if pooling == "cls" else np.concatenate([~same, other[:1]])
    chosen = chosen[: len(row)]
    found[row[chosen], number[chosen], place[chosen]] = 1
    return found


def answers(batch: Batch, documents: int) -> np.ndarray:
    """(B, K, T) float32: 1 where the target of a token counts in a document's sum, such as the tokens of its answer."""
    rows, length = batch.tokens.shape
    found = np.zeros((rows, documents, length), np.float32)
    row, place = np.nonzero(batch.weights)
    found[row, batch.documents[row, place], place] = 1
    return found
