"""Documents into blocks of a fixed length, as pure functions of the block's number.

B rows of a batch, T tokens of a block, n documents. Everything gathers from token files by index: opening a layout
costs as much as its documents, never as much as their tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from llmspec.compiler.plan import ModelPlan
from llmspec.core.hashing import digest
from llmspec.data.tokens import TokenSet
from llmspec.parts.tokenizers.special_tokens import SpecialTokens


class Batch(NamedTuple):
    """What one pass reads. Padding has weight 0 and, under a document mask, a document of its own."""

    tokens: np.ndarray
    """(B, T) int32 inputs."""
    targets: np.ndarray
    """(B, T) int32: the token after each input."""
    weights: np.ndarray
    """(B, T) float32: how much the target counts in the loss, mostly 1; 0 where it does not."""
    documents: np.ndarray
    """(B, T) int32 number of the input's document within its row; all 0 without a document mask."""
    positions: np.ndarray
    """(B, T) int32: place in the row; under a document mask, place in the document's part of the row."""
    source: np.ndarray
    """(B,) int32 number of the row's source in the mixture."""
    filled: np.ndarray
    """(B,) int32 inputs that are not padding; they come first."""
    repeated: np.ndarray
    """(B,) int32 of those, how many the phase's plan reads for another time."""
    encoder_tokens: np.ndarray | None = None
    """(B, S) int32 that an encoder reads; None without one."""
    encoder_filled: np.ndarray | None = None
    """(B,) int32 of those, how many are not padding; they come first."""
    labels: Labels | None = None
    """What is asked of each document of a row, in rows of whole documents; None of any other."""
    drawn: Mapping[str, np.ndarray] | None = None
    """Of rows of answers that the model has drawn: what an objective reads of them, by its inputs' names."""

    @property
    def read(self) -> np.ndarray:
        """(B,) int32 tokens read, padding excluded: by the encoder, too."""
        return self.filled if self.encoder_filled is None else self.filled + self.encoder_filled


class Labels(NamedTuple):
    """What is asked of the documents of each row, in their order; K of them at most."""

    targets: np.ndarray
    """(B, K) int32 label of each document, or (B, K, C) float32, 1 for each label that it has."""
    weights: np.ndarray
    """(B, K) float32: how much each document counts; 0 where a row has no document more."""
    records: np.ndarray | None = None
    """(B, K) int64, of answers that are compared: which pair, list or judged answer of its source each is of, those
    counted that are read; -1 where a row has no document more."""
    margins: np.ndarray | None = None
    """(B, K) float32, of those: by how much the best answer of the same record is better, where it says so."""


class Counts(NamedTuple):
    """Tokens of a layout's first blocks."""

    tokens_read: int
    tokens_supervised: int
    tokens_repeated: int
    blocks: int
    least: int
    """Supervised targets of the block that has the fewest."""


class Layout(Protocol):
    """The blocks 0, 1, 2, ... of one source in one phase."""

    epoch_tokens: int
    """Inputs of one pass over the source."""
    blocks_per_epoch: float
    tokens_per_block: float
    """Inputs of a block on average, padding excluded."""
    dropped: dict[str, int]
    """Documents that no block holds, by reason."""
    weighs: np.ndarray | None
    """(n,) float32: how much each document counts; None where all count the same, and in validation."""

    def epochs(self, blocks: np.ndarray) -> np.ndarray:
        """Epoch in which each block starts."""

    def counts(self, blocks: int) -> Counts:
        """Tokens of the first `blocks` blocks."""

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        """Write blocks into those rows of a blank batch."""


class Pair(NamedTuple):
    """How a row holds two texts, one for an encoder and one for its decoder."""

    context: int
    """Tokens that the encoder reads at most."""
    start: int
    """The token that the decoder's text begins with."""
    behind: int = 0
    """Special tokens that end the encoder's text, and stay where it is cut."""


def pair_of(model: ModelPlan, specials: SpecialTokens) -> Pair | None:
    """That of a model with an encoder; None of any other."""
    start = specials.start_of(model.decoder_start)
    return None if start is None else Pair(model.encoder_context, start, len(specials.after))


def blank(rows: int, context: int, end: int, pair: Pair | None = None) -> Batch:
    """A batch of nothing but padding: end tokens with weight 0; of pairs, the encoder's too."""
    shape = (rows, context)
    places = np.broadcast_to(np.arange(context, dtype=np.int32), shape).copy()
    full, zeros = (lambda: np.full(shape, end, np.int32)), (lambda: np.zeros(rows, np.int32))
    read = None if pair is None else np.full((rows, pair.context), end, np.int32)
    encoded = None if pair is None else zeros()
    weights, documents = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    return Batch(full(), full(), weights, documents, places, zeros(), zeros(), zeros(), read, encoded)


def random_bits(n: int, *names: object) -> np.ndarray:
    """(n,) uint64 that depend on `names` alone, on every machine and with every numpy."""
    # Bits of the generator are promised to stay; numpy's own shuffles and floats are not.
    return np.random.Philox(key=int(digest([str(name) for name in names])[:32], 16)).random_raw(n)


def shuffled(n: int, *names: object) -> np.ndarray:
    """(n,) int64 permutation that depends on `names` alone."""
    return np.argsort(random_bits(n, *names), kind="stable")


class PlainLayout:
    """Plain text as one endless stream: `EOS d1 EOS d2 ...` in a new order each epoch, cut into blocks.

    Block i has inputs stream[iT : iT+T] and targets one further on, so that every token of an epoch is a target
    exactly once. The EOS before a document is the target that ends the one before.
    """

    def __init__(self, data: TokenSet, context: int, end: int, mask: bool, names: tuple[object, ...] | None) -> None:
        """`names` seed the order of the documents; None keeps it."""
        self._data, self._context, self._end, self._mask, self._names = data, context, end, mask, names
        self.weighs = data.weights if names is not None else None
        self._lengths = data.lengths + 1
        self._orders: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self.epoch_tokens = int(self._lengths.sum())
        self.blocks_per_epoch = self.epoch_tokens / context
        self.tokens_per_block = float(context)
        self.dropped: dict[str, int] = {}

    def epochs(self, blocks: np.ndarray) -> np.ndarray:
        return blocks * self._context // self.epoch_tokens

    def counts(self, blocks: int) -> Counts:
        seen = blocks * self._context
        return Counts(seen, seen, max(0, seen - self.epoch_tokens), blocks, self._context if blocks else 0)

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        T = self._context
        stream, starts = self._read(blocks[:, None] * T + np.arange(T + 1))
        batch.tokens[rows], batch.targets[rows] = stream[:, :-1], stream[:, 1:]
        batch.weights[rows] = 1 if self.weighs is None else self._weights(blocks[:, None] * T + np.arange(T))
        batch.filled[rows] = T
        batch.repeated[rows] = np.clip((blocks + 1) * T - self.epoch_tokens, 0, T)
        if self._mask:
            # A block that begins inside a document begins a part of it, with the positions of a fresh start.
            starts = starts[:, :-1]
            starts[:, 0] = True
            batch.documents[rows] = np.cumsum(starts, axis=1) - 1
            places = np.arange(T)
            batch.positions[rows] = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)

    def _read(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens at places of the stream, and whether each is the EOS that begins a document."""
        tokens = np.full(places.shape, self._end, np.int32)
        starts = np.zeros(places.shape, bool)
        epochs, within = np.divmod(places, self.epoch_tokens)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order, begins = self._order(int(epoch))
            nth = np.searchsorted(begins, within[here], side="right") - 1
            inside = within[here] - begins[nth]
            source = self._data.offsets[order[nth]] + inside - 1
            found = np.full(len(inside), self._end, np.int32)
            text = inside > 0
            found[text] = self._data.ids(source[text])
            tokens[here], starts[here] = found, ~text
        return tokens, starts

    def _weights(self, places: np.ndarray) -> np.ndarray:
        """float32: how much the documents count whose tokens stand at places of the stream, or end there: as targets
        of these places they and their ends count so."""
        assert self.weighs is not None
        found = np.empty(places.shape, np.float32)
        epochs, within = np.divmod(places, self.epoch_tokens)
        for epoch in np.unique(epochs):
            order, begins = self._order(int(epoch))
            here = epochs == epoch
            found[here] = self.weighs[order[np.searchsorted(begins, within[here], side="right") - 1]]
        return found

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's documents in order, and where each begins in it."""
        if epoch not in self._orders:
            n = len(self._lengths)
            order = np.arange(n) if self._names is None else shuffled(n, *self._names, "documents", epoch)
            lengths = self._lengths[order]
            self._orders[epoch] = order, np.cumsum(lengths) - lengths
            # Blocks are served epoch by epoch, so that few orders are in use at a time.
            if len(self._orders) > 4:
                self._orders.popitem(last=False)
        return self._orders[epoch]
