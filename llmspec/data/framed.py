"""Plain text in stretches between special tokens, such as `[CLS] text [SEP]`: rows of models that read nothing without
them (Devlin et al. 2019, arXiv:1810.04805, section 3).

T tokens of a block, n stretches.
"""

from __future__ import annotations

import numpy as np

from llmspec.data.layout import Batch, shuffled
from llmspec.data.packing import PackedLayout, pad_after, ranges_from
from llmspec.data.tokens import TokenSet

Around = tuple[tuple[int, ...], tuple[int, ...]]
"""Special tokens before and behind each stretch."""


class FramedLayout(PackedLayout):
    """Documents cut into stretches that fit a block between their special tokens; these are packed once into blocks,
    which every epoch reads in a new order. Each token of a document stands in one stretch."""

    def __init__(
        self, data: TokenSet, context: int, around: Around, mask: bool, names: tuple[object, ...] | None
    ) -> None:
        """`names` seed what is packed together and the order of blocks; None keeps the documents' own order."""
        self._data, self._context, self._around, self._mask, self._names = data, context, around, mask, names
        self.weighs = data.weights if names is not None else None
        framing, lengths = sum(map(len, around)), data.lengths
        most = context - framing
        stretches = -(-lengths // most)
        self._owner = np.repeat(np.arange(len(lengths)), stretches)
        """(n,) the document of each stretch."""
        before = ranges_from(np.zeros_like(stretches), stretches) * most
        self._begins = data.offsets[self._owner] + before
        self._words = np.minimum(lengths[self._owner] - before, most)
        self.dropped: dict[str, int] = {}
        self.characters = int(data.characters.sum())
        """Characters of the documents."""
        count = len(self._owner)
        order = np.arange(count) if names is None else shuffled(count, *names, "packing")
        self._arrange(order, self._words + framing, self._words)

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        T, (before, after) = self._context, self._around
        packed = np.array([self._order(b // self._blocks)[b % self._blocks] for b in blocks.tolist()], np.int64)
        per_row = self._first[packed + 1] - self._first[packed]
        entry = ranges_from(self._first[packed], per_row)
        stretch = self._dialogue[entry]
        words, begins = self._words[stretch], np.repeat(rows * T, per_row) + self._start[entry]
        tokens, inside = batch.tokens.reshape(-1), ranges_from(begins + len(before), words)
        tokens[inside] = self._data.ids(ranges_from(self._begins[stretch], words))
        for i, token in enumerate(before):
            tokens[begins + i] = token
        for i, token in enumerate(after):
            tokens[begins + len(before) + words + i] = token
        counts = np.ones(len(words)) if self.weighs is None else self.weighs[self._owner[stretch]]
        batch.weights.reshape(-1)[inside] = np.repeat(counts, words)
        filled = self._filled[packed]
        batch.filled[rows] = filled
        batch.repeated[rows] = np.where(blocks >= self._blocks, filled, 0)
        if self._mask:
            lengths = words + len(before) + len(after)
            everywhere, nth = ranges_from(begins, lengths), ranges_from(np.zeros_like(per_row), per_row)
            batch.documents.reshape(-1)[everywhere] = np.repeat(nth, lengths)
            batch.positions.reshape(-1)[everywhere] = ranges_from(np.zeros_like(lengths), lengths)
            pad_after(batch, rows, per_row, filled)
