"""Documents into pairs of texts, one for an encoder and one for its decoder: one pair a row, which nothing shares.

T tokens of a decoder's row, S of an encoder's, P pairs, n documents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmspec.data.layout import Batch, Counts, Pair, PlainLayout, random_bits
from llmspec.data.packing import DialogueLayout, ranges_from
from llmspec.data.shaping import NOTHING_BEFORE, NOTHING_LEARNED, TOO_LONG
from llmspec.data.tokens import TokenSet
from llmspec.data.turns import spans
from llmspec.parts.phases.turns import Turns

CUTS = 4096
"""Blocks whose cuts are drawn at once."""


class CutLayout(PlainLayout):
    """Plain text of whose blocks only what stands behind a place is predicted, for decoders alone (prefix language
    modelling). How many tokens stand before it, 1 … T, is drawn evenly from the seed; of validation (`names` None) it
    is always the same."""

    _cached: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def cuts(self, blocks: np.ndarray) -> np.ndarray:
        """How many of each block's tokens are read alone."""
        names, found = ("validation",) if self._names is None else self._names, np.empty(len(blocks), np.int64)
        for chunk in np.unique(blocks // CUTS).tolist():
            if chunk != self._cached[0]:
                bits = random_bits(CUTS, *names, "cut", chunk)
                self._cached = chunk, 1 + (bits % np.uint64(self._context)).astype(np.int64)
            here = blocks // CUTS == chunk
            found[here] = self._cached[1][blocks[here] % CUTS]
        return found

    def counts(self, blocks: int) -> Counts:
        found, supervised, least = super().counts(blocks), 0, self._context
        for begin in range(0, blocks, CUTS):
            behind = self._context + 1 - self.cuts(np.arange(begin, min(begin + CUTS, blocks)))
            supervised, least = supervised + int(behind.sum()), min(least, int(behind.min()))
        return found._replace(tokens_supervised=supervised, least=least if blocks else 0)

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        super().gather(batch, rows, blocks)
        # The last token that is read alone is what the first one to be predicted follows.
        batch.weights[rows] *= np.arange(self._context) >= self.cuts(blocks)[:, None] - 1


class PrefixLayout(PlainLayout):
    """Plain text, each stretch of which is cut in two: the encoder reads the first part, the decoder predicts the
    second (prefix language modelling, Raffel et al. 2020, section 3.2.3).

    Training: block i is the stream's tokens iN … iN + N - 1, N = min(S, T), cut at a place drawn evenly from the seed.
    Validation (`names` None): the decoder's rows are the stream's targets, T at a time, so that every token counts
    once, as in a model without an encoder; the encoder reads the S tokens before them.
    """

    def __init__(self, data: TokenSet, context: int, end: int, pair: Pair, names: tuple[object, ...] | None) -> None:
        super().__init__(data, context, end, False, names)
        self._pair, self._size = pair, max(2, min(pair.context, context))
        self._cuts: dict[int, np.ndarray] = {}
        if names is not None:
            self.blocks_per_epoch = self.epoch_tokens / self._size
            self.tokens_per_block = float(self._size)

    def epochs(self, blocks: np.ndarray) -> np.ndarray:
        return blocks * self._size // self.epoch_tokens

    def cuts(self, blocks: np.ndarray) -> np.ndarray:
        """How many of each block's tokens the encoder reads: 1 … N - 1."""
        assert self._names is not None
        found = np.empty(len(blocks), np.int64)
        for chunk in np.unique(blocks // CUTS).tolist():
            if chunk not in self._cuts:
                bits = random_bits(CUTS, *self._names, "cut", chunk)
                self._cuts = {chunk: 1 + (bits % np.uint64(self._size - 1)).astype(np.int64), **self._cuts}
                while len(self._cuts) > 16:
                    self._cuts.popitem()
            here = blocks // CUTS == chunk
            found[here] = self._cuts[chunk][blocks[here] % CUTS]
        return found

    def counts(self, blocks: int) -> Counts:
        seen, supervised, least = blocks * self._size, 0, self._size
        for begin in range(0, blocks, CUTS):
            second = self._size - self.cuts(np.arange(begin, min(begin + CUTS, blocks)))
            supervised, least = supervised + int(second.sum()), min(least, int(second.min()))
        return Counts(seen, supervised, max(0, seen - self.epoch_tokens), blocks, least if blocks else 0)

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        if self._names is None:
            first = 1 + blocks * self._context  # the end token before the first document is nobody's target
            before, after = np.minimum(first, self._pair.context), np.full(len(blocks), self._context)
            batch.repeated[rows] = 0
        else:
            before = self.cuts(blocks)
            first, after = blocks * self._size + before, self._size - before
            again = (blocks + 1) * self._size - self.epoch_tokens
            batch.repeated[rows] = np.clip(again, 0, self._size)
        source, answer = ranges_from(first - before, before), ranges_from(first, after)
        tokens, _ = self._read(np.concatenate([source, answer])[None])
        put(batch, rows, tokens[0, : len(source)], before, tokens[0, len(source) :], after, self._pair.start)
        if self.weighs is not None:
            # A token, or a document's end, belongs to the document of the token before it.
            weights = batch.weights.reshape(-1)
            weights[ranges_from(rows * batch.weights.shape[1], after)] = self._weights(answer - 1)


class AnswerLayout(DialogueLayout):
    """Dialogues as pairs: what stands before an answer is the encoder's text, the answer the decoder's.

    Each turn that `train_on` names is an answer, with its end of turn; a dialogue with a part that is too long for
    its row is left out whole.
    """

    def __init__(
        self,
        data: TokenSet,
        train_on: Sequence[str],
        context: int,
        end: int,
        pair: Pair,
        names: tuple[object, ...] | None,
        truncation: str = "none",
    ) -> None:
        """`truncation` says which sides are cut where they are too long: `none`, `source`, `target`, `both`."""
        if data.role_of_token is None or data.tokens_per_role is None:
            raise TypeError("these tokens are of plain documents")
        self._context, self._names, self._pair = context, names, pair
        self._cached = (-1, np.zeros(0, np.int64))
        self._data, self._turns = data, Turns.of(train_on)
        self._spans = dialogue, begin, end_ = spans(data, self._turns)
        before, after, n = begin - data.offsets[dialogue], end_ - begin, len(data.lengths)
        self.cropped = {"source": 0, "target": 0}
        """Pairs whose side is cut."""
        whole = np.maximum(before, after)
        self._starts = begin - before
        if truncation in ("source", "both"):
            self.cropped["source"], before = int((before > pair.context).sum()), np.minimum(before, pair.context)
        if truncation in ("target", "both"):
            self.cropped["target"], after = int((after > context).sum()), np.minimum(after, context)
        long = np.bincount(dialogue, (before > pair.context) | (after > context), n) > 0
        bare = np.bincount(dialogue, before < 1, n) > 0
        teaches = np.bincount(dialogue, minlength=n) > 0
        self.needed = int(np.quantile(whole, 0.9, method="higher")) if len(whole) else 0
        self.dropped = {
            TOO_LONG: int(long.sum()),
            NOTHING_BEFORE: int((bare & ~long).sum()),
            NOTHING_LEARNED: int((~teaches).sum()),
        }
        self.kept = np.flatnonzero(teaches & ~long & ~bare)
        held = np.isin(dialogue, self.kept)
        self._starts, self._begin, self._ends = self._starts[held], begin[held], end_[held]
        self._before, self._after = before[held], after[held]
        self._owner = dialogue[held]
        self.weighs = data.weights if names is not None else None
        self._blocks = len(self._begin)
        self._filled, self._supervised = self._before + self._after, self._after
        self.characters = int(data.characters[self.kept][:, self._turns.learned].sum())
        self.epoch_tokens = int(self._filled.sum())
        self.blocks_per_epoch = float(self._blocks)
        self.tokens_per_block = self.epoch_tokens / self._blocks if self._blocks else 0.0

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        pair = np.array([self._order(b // self._blocks)[b % self._blocks] for b in blocks.tolist()], np.int64)
        before, after = self._before[pair], self._after[pair]
        source = self._data.ids(read_places(self._starts[pair], self._begin[pair], before, self._pair.behind))
        answer = self._data.ids(read_places(self._begin[pair], self._ends[pair], after, 1))
        put(batch, rows, source, before, answer, after, self._pair.start)
        if self.weighs is not None:
            batch.weights[rows] *= self.weighs[self._owner[pair]][:, None]
        batch.repeated[rows] = np.where(blocks >= self._blocks, before + after, 0)

    def pair(self, i: int) -> tuple[list[int], list[int]]:
        """Source and target of a block, as it is read."""
        one = slice(i, i + 1)
        source = read_places(self._starts[one], self._begin[one], self._before[one], self._pair.behind)
        answer = read_places(self._begin[one], self._ends[one], self._after[one], 1)
        return self._data.ids(source).tolist(), self._data.ids(answer).tolist()


def read_places(first: np.ndarray, end: np.ndarray, lengths: np.ndarray, last: int) -> np.ndarray:
    """Places of texts first … end - 1 of which `lengths` tokens are read: all, or the first ones with the `last` of
    all, which end a text."""
    inside = ranges_from(np.zeros_like(lengths), lengths)
    missing = end - first - lengths
    return ranges_from(first, lengths) + np.where(
        inside >= np.repeat(lengths - last, lengths), np.repeat(missing, lengths), 0
    )


def put(
    batch: Batch,
    rows: np.ndarray,
    source: np.ndarray,
    before: np.ndarray,
    answer: np.ndarray,
    after: np.ndarray,
    start: int,
) -> None:
    """Write pairs into rows: `source` and `answer` hold the tokens of all of them, `before` and `after` of each row.

    The decoder reads the start token and the answer but for its last token; all of the answer counts.
    """
    assert batch.encoder_tokens is not None and batch.encoder_filled is not None
    S, T = batch.encoder_tokens.shape[1], batch.tokens.shape[1]
    batch.encoder_tokens.reshape(-1)[ranges_from(rows * S, before)] = source
    batch.encoder_filled[rows] = before
    place = ranges_from(rows * T, after)
    batch.targets.reshape(-1)[place] = answer
    batch.weights.reshape(-1)[place] = 1
    later = ranges_from(np.zeros_like(after), after) > 0
    batch.tokens.reshape(-1)[place[later]] = answer[np.flatnonzero(later) - 1]
    batch.tokens[rows, 0] = start
    batch.filled[rows] = after
