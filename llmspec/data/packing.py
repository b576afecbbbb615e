"""Whole dialogues into blocks: packed, never cut.

T tokens of a block, n dialogues kept, K blocks of one epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmspec.data.layout import Batch, Counts, shuffled
from llmspec.data.shaping import NOTHING_LEARNED, TOO_LONG
from llmspec.data.tokens import TokenSet
from llmspec.data.turns import Spans, spans
from llmspec.parts.phases.turns import Turns
from llmspec.parts.tokenizers.special_tokens import ROLES


class PackedLayout:
    """Documents packed once into blocks, which every epoch reads in a new order; what they hold is a subclass's."""

    _names: tuple[object, ...] | None
    _context: int

    def _arrange(self, order: np.ndarray, places: np.ndarray, supervised: np.ndarray, most: int = 1 << 62) -> None:
        """Pack documents in an order (n,), each of so many places and supervised targets, up to `most` in a block."""
        self._cached: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._pack(order, places, most)
        self._filled = np.bincount(self._block, places[self._dialogue], self._blocks).astype(np.int64)
        self._supervised = np.bincount(self._block, supervised[self._dialogue], self._blocks).astype(np.int64)
        self.epoch_tokens = int(self._filled.sum())
        self.blocks_per_epoch = float(self._blocks)
        self.tokens_per_block = self.epoch_tokens / self._blocks if self._blocks else 0.0

    def epochs(self, blocks: np.ndarray) -> np.ndarray:
        return blocks // self._blocks

    def counts(self, blocks: int) -> Counts:
        full, rest = divmod(blocks, self._blocks)
        last = self._order(full)[:rest]
        seen = full * self.epoch_tokens + int(self._filled[last].sum())
        supervised = full * int(self._supervised.sum()) + int(self._supervised[last].sum())
        read = self._supervised if full else self._supervised[last]
        return Counts(
            seen,
            supervised,
            seen - self.epoch_tokens if full else 0,
            blocks,
            int(read.min(initial=1 << 62)) if blocks else 0,
        )

    def _order(self, epoch: int) -> np.ndarray:
        """Packed blocks in the epoch's order."""
        if self._names is None:
            return np.arange(self._blocks)
        if self._cached[0] != epoch:
            self._cached = epoch, shuffled(self._blocks, *self._names, "blocks", epoch)
        return self._cached[1]

    def _pack(self, order: np.ndarray, places: np.ndarray, most: int) -> None:
        """Best fit: each document goes into the fullest open block that still has room for it."""
        room_of: list[list[int]] = [[] for _ in range(self._context + 1)]
        # Bit r says that a block with room r is open: the smallest sufficient one is found in one step.
        open_ = 0
        block, start, held = [], [], list[int]()
        self._blocks = 0
        for need in places[order].tolist():
            fitting = open_ >> need
            if fitting:
                room = need + (fitting & -fitting).bit_length() - 1
                into = room_of[room].pop()
                if not room_of[room]:
                    open_ ^= 1 << room
            else:
                room, into = self._context, self._blocks
                self._blocks += 1
                held.append(0)
            block.append(into)
            start.append(self._context - room)
            held[into] += 1
            if (left := room - need) and held[into] < most:
                room_of[left].append(into)
                open_ |= 1 << left
        by_block = np.argsort(np.array(block, np.int64), kind="stable")
        self._block = np.array(block, np.int64)[by_block]
        self._start = np.array(start, np.int64)[by_block]
        self._dialogue = order[by_block]
        self._first = np.searchsorted(self._block, np.arange(self._blocks + 1))


class DialogueLayout(PackedLayout):
    """Dialogues packed once into blocks, which every epoch reads in a new order.

    A dialogue of m tokens fills m - 1 places: inputs are all but its last token, targets all but its first. Targets
    count where they are content, or the end of a turn, that `train_on` names.
    """

    most = 1 << 62
    """Dialogues of a block, at most."""

    def __init__(
        self,
        data: TokenSet,
        train_on: Sequence[str],
        context: int,
        end: int,
        mask: bool,
        names: tuple[object, ...] | None,
    ) -> None:
        """`names` seed what is packed together and the order of blocks; None keeps the dialogues' own order."""
        if data.role_of_token is None or data.tokens_per_role is None:
            raise TypeError("these tokens are of plain documents")
        self._data, self._context, self._end, self._mask, self._names = data, context, end, mask, names
        self._turns = Turns.of(train_on)
        learned = self._turns.learned
        self.weighs = data.weights if names is not None else None
        self._counts = np.zeros(len(ROLES) + 1, np.float32)
        self._counts[[i + 1 for i in learned]] = 1
        supervised = data.tokens_per_role[:, learned].sum(axis=1)
        if self._turns.last:
            supervised = self._last_turns(spans(data, self._turns))
        needs, places = self.needs(), np.minimum(data.lengths - 1, context)
        fits, teaches = needs <= context, supervised > 0
        self.needed = int(np.quantile(needs, 0.9, method="higher")) if len(needs) else 0
        """Tokens of a block that holds all but the longest tenth of the dialogues."""
        self.dropped = {TOO_LONG: int((~fits).sum()), NOTHING_LEARNED: int((fits & ~teaches).sum())}
        self.kept = np.flatnonzero(fits & teaches)
        """(n,) dialogues that are read."""
        order = self.kept if names is None else self.kept[shuffled(len(self.kept), *names, "packing")]
        self._arrange(order, places, supervised, self.most)
        self.characters = int(data.characters[self.kept][:, learned].sum())
        """Characters of the contents to predict."""

    def needs(self) -> np.ndarray:
        """(n,) places that a row has to have for each dialogue, so that it is not too long."""
        return self._data.lengths - 1

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        T, data = self._context, self._data
        packed = np.array([self._order(b // self._blocks)[b % self._blocks] for b in blocks.tolist()], np.int64)
        first, last = self._first[packed], self._first[packed + 1]
        per_row = last - first
        entry = ranges_from(first, per_row)
        dialogue = self._dialogue[entry]
        places = np.minimum(data.offsets[dialogue + 1] - data.offsets[dialogue] - 1, T)
        source = ranges_from(data.offsets[dialogue], places)
        row = np.repeat(rows, per_row)
        target = np.repeat(row * T + self._start[entry], places) + ranges_from(np.zeros_like(places), places)
        batch.tokens.reshape(-1)[target] = data.ids(source)
        batch.targets.reshape(-1)[target] = data.ids(source + 1)
        batch.weights.reshape(-1)[target] = self._weights(source + 1, np.repeat(dialogue, places))
        filled = self._filled[packed]
        batch.filled[rows] = filled
        batch.repeated[rows] = np.where(blocks >= self._blocks, filled, 0)
        if self._mask:
            nth = ranges_from(np.zeros_like(per_row), per_row)
            batch.documents.reshape(-1)[target] = np.repeat(nth, places)
            batch.positions.reshape(-1)[target] = ranges_from(np.zeros_like(places), places)
            pad_after(batch, rows, per_row, filled)

    def _last_turns(self, found: Spans) -> np.ndarray:
        """(n,) tokens of each dialogue's last turn, before which nothing counts."""
        self._spans, n = found, len(self._data.lengths)
        self._from = np.zeros(n, np.int64)
        self._from[found.dialogue] = found.begin
        supervised = np.zeros(n, np.int64)
        supervised[found.dialogue] = found.end - found.begin
        return supervised

    def _weights(self, places: np.ndarray, dialogue: np.ndarray) -> np.ndarray:
        """float32: how much tokens count as targets; `dialogue` says whose each is."""
        counts = self._counts[self._data.codes(places)]
        if self._turns.last:
            counts = np.where(places >= self._from[dialogue], counts, 0)
        return counts if self.weighs is None else counts * self.weighs[dialogue]

    @property
    def last_turns(self) -> np.ndarray | None:
        """The tokens of all turns that are learned, where they are last ones; else None."""
        if not self._turns.last:
            return None
        held = np.isin(self._spans[0], self.kept)
        begin, end = self._spans[1][held], self._spans[2][held]
        return self._data.ids(ranges_from(begin, end - begin))

    def pair(self, i: int) -> tuple[list[int], list[int]]:
        """The tokens of a dialogue that is read, before what is first learned, and from there on."""
        data, one = self._data, int(self.kept[i])
        places = np.arange(data.offsets[one], data.offsets[one + 1])
        ids, learned = data.ids(places).tolist(), self._weights(places, np.full(len(places), one))
        begins = int(np.argmax(learned > 0))
        return ids[:begins], ids[begins:]


def pad_after(batch: Batch, rows: np.ndarray, documents: np.ndarray, filled: np.ndarray) -> None:
    """Under a document mask: give what follows `filled` the next document number and positions from 0."""
    T = batch.tokens.shape[1]
    places = np.arange(T)
    padding = places >= filled[:, None]
    batch.documents[rows] = np.where(padding, documents[:, None], batch.documents[rows])
    batch.positions[rows] = np.where(padding, places - filled[:, None], batch.positions[rows])


def ranges_from(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... for each start, `length` of them, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
