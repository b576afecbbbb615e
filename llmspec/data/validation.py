"""Validation text in blocks: every token once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil

import numpy as np

from llmspec.data.compared import AnyAsking
from llmspec.data.documents import DocumentLayout
from llmspec.data.framed import Around, FramedLayout
from llmspec.data.layout import Batch, Layout, Pair, PlainLayout, blank
from llmspec.data.packing import DialogueLayout, pad_after
from llmspec.data.pairs import AnswerLayout
from llmspec.data.spans import SpanForm, SpanLayout
from llmspec.data.stream import layout_of
from llmspec.data.tokens import TokenSet
from llmspec.data.turns import spelled
from llmspec.parts.phases import Phase
from llmspec.parts.tokenizers import Codec


class ValidationSet:
    """Batches of one source's validation text, all of the same shape; iterate as often as you like.

    Plain text is the stream `EOS v1 EOS v2 ... EOS`, each of whose targets counts once. Dialogues are packed whole,
    and the targets are those of the roles that the phase learns. Losses per token divide by `tokens`, losses per
    character by `characters`.
    """

    def __init__(
        self,
        source: str,
        phase: Phase,
        data: TokenSet,
        context: int,
        end: int,
        dropped: Mapping[str, int] | None = None,
        pair: Pair | None = None,
        asking: AnyAsking | None = None,
        codec: Codec | None = None,
        spans: SpanForm | None = None,
        around: Around | None = None,
    ) -> None:
        """`dropped` counts documents that are not read in this form, by reason; `pair` is that of a model with an
        encoder, `asking` that of a phase that asks something of each document; `codec` tells how many characters last
        turns have; `spans` is that of a phase which leaves out spans, `around` special tokens around plain text."""
        self.source = source
        self._rows, self._context, self._end, self._pair = phase.micro_batch_size, context, end, pair
        self._mask = phase.document_mask and pair is None
        self._layout, self._asking = layout_of(data, phase, context, end, None, pair, asking, spans, around), asking
        self.dropped: dict[str, int] = {why: n for why, n in {**(dropped or {}), **self._layout.dropped}.items() if n}
        """Reason -> documents that are not validated on."""
        if isinstance(self._layout, DialogueLayout | DocumentLayout | SpanLayout | FramedLayout):
            self._blocks = int(self._layout.blocks_per_epoch)
            self.tokens = self._layout.counts(self._blocks).tokens_supervised if self._blocks else 0
            self.characters = self._layout.characters
            if isinstance(self._layout, DialogueLayout) and (ids := self._layout.last_turns) is not None:
                self.characters = spelled(codec, ids) if codec is not None else 0
        else:
            self._blocks = ceil(self._layout.epoch_tokens / context)
            self.tokens = self._layout.epoch_tokens
            self.characters = int(data.characters.sum())

    @property
    def pairs(self) -> int:
        """Number of pairs of a source and a target; 0 where it has none."""
        if isinstance(self._layout, AnswerLayout):
            return self._blocks
        return len(self._layout.kept) if isinstance(self._layout, DialogueLayout) else 0

    def pair(self, i: int) -> tuple[list[int], list[int]]:
        """Ids of what is asked, and of what is to be said, in pair i."""
        assert isinstance(self._layout, DialogueLayout)
        return self._layout.pair(i)

    @property
    def layout(self) -> Layout:
        """How its text becomes blocks."""
        return self._layout

    def __len__(self) -> int:
        """Number of batches."""
        return ceil(self._blocks / self._rows)

    def __iter__(self) -> Iterator[Batch]:
        for i in range(len(self)):
            yield self.batch(i)

    def batch(self, i: int) -> Batch:
        """Batch i; rows after the last block are padding."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        blocks = np.arange(i * self._rows, min((i + 1) * self._rows, self._blocks))
        rows = np.arange(len(blocks))
        batch = blank(self._rows, self._context, self._end, self._pair)
        if self._asking is not None:
            batch = batch._replace(labels=self._asking.blank(self._rows))
        self._layout.gather(batch, rows, blocks)
        if isinstance(self._layout, PlainLayout):
            self._trim(batch, rows, blocks)
        batch.repeated[:] = 0
        return batch

    @property
    def read(self) -> int:
        """Tokens that a pass over it reads, padding excluded."""
        return self._layout.epoch_tokens

    def counts(self, batch: Batch) -> np.ndarray:
        """(B, K) bool: which places of a batch's labels are of a document."""
        assert batch.labels is not None
        last = np.where(np.arange(batch.tokens.shape[1]) < batch.filled[:, None], batch.documents, -1).max(1)
        return np.arange(batch.labels.weights.shape[1]) <= last[:, None]

    def _trim(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        """Turn what lies past the text's end into padding."""
        filled = np.minimum(self.tokens - blocks * self._context, self._context)
        padding = np.arange(self._context) >= filled[:, None]
        batch.filled[rows] = filled
        for array, value in ((batch.tokens, self._end), (batch.targets, self._end), (batch.weights, 0)):
            array[rows] = np.where(padding, value, array[rows])
        if self._mask:
            last = batch.documents[rows, filled - 1] + 1
            pad_after(batch, rows, last, filled)
