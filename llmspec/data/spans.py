"""Plain text with spans left out, and the spans: what phases of span corruption read (Raffel et al. 2020, 3.1.4).

N tokens of a stretch of text, n of which are left out in k spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmspec.compiler.plan import ModelPlan
from llmspec.compiler.spans import unfit_rows
from llmspec.core.problems import DataError
from llmspec.data.layout import Batch, Counts, PlainLayout, random_bits
from llmspec.data.pair_form import PairForm
from llmspec.data.tokens import TokenSet
from llmspec.parts.phases import Phase
from llmspec.parts.phases.span_corruption import SpanCorruption
from llmspec.parts.tokenizers.special_tokens import SpecialTokens


@dataclass(frozen=True)
class SpanForm:
    """How a stretch of text and the spans that are left out of it stand in a row."""

    phase: SpanCorruption
    sentinels: tuple[int, ...]
    before: tuple[int, ...]
    """Special tokens before the text."""
    after: tuple[int, ...]
    """Those behind it; where a decoder reads both sides in one row, what stands between them."""
    end: int
    """The token behind the last span."""
    start: int | None
    """What a decoder's text begins with, whose encoder reads the text; None of a decoder alone."""
    size: int
    """Tokens of text that a row is made of."""

    def identity(self) -> list[Any]:
        """JSON-able value of all that shapes rows, beside the text."""
        phase, around = self.phase, [list(self.before), list(self.after)]
        return [phase.noise_density, phase.mean_noise_span_length, list(self.sentinels), around, self.start, self.size]

    def rows(self, text: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a stretch (N,) and bool (N,), which of its tokens are left out: what is read, and what is predicted."""
        read, said = corrupted(text, left_out, self.sentinels)
        return np.concatenate([self.before, read, self.after]).astype(np.int32), np.append(said, self.end)


def form_of(name: str, phase: Phase, model: ModelPlan, specials: SpecialTokens) -> SpanForm | None:
    """That of a phase which leaves out spans; None of any other.

    Raises DataError where the tokenizer has too few sentinels, or no stretch of text fits.
    """
    if not isinstance(phase, SpanCorruption):
        return None
    before, after = PairForm(encoder=model.encoder is not None).around(specials)
    there, around = specials.sentinels, len(before) + len(after)
    if (wrong := unfit_rows(phase, model, around, len(there), specials.named)) is not None:
        raise DataError(wrong.at("phases", name))
    size = phase.stretch(model.context, model.encoder_context, around)
    return SpanForm(phase, there, before, after, specials.need("eos"), specials.start_of(model.decoder_start), size)


def corrupted(text: np.ndarray, left_out: np.ndarray, sentinels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A text (N,) with a sentinel for each span of tokens that are left out, (N - n + k,), and these spans, each behind
    its sentinel, (n + k,). The text begins with a token that stays and ends with one that does not."""
    marks = np.asarray(sentinels, np.int32)
    borders = np.flatnonzero(np.diff(left_out)) + 1
    pieces = np.split(text, borders)
    stay, gone = pieces[::2], pieces[1::2]
    read = [part for i, piece in enumerate(stay) for part in (piece, marks[i : i + 1])]
    said = [part for i, piece in enumerate(gone) for part in (marks[i : i + 1], piece)]
    return np.concatenate(read).astype(np.int32), np.concatenate(said).astype(np.int32)


def drawn_spans(phase: SpanCorruption, length: int, bits: np.ndarray) -> np.ndarray:
    """Bool (N,): which tokens of a stretch of N ≥ 2 are left out, by N - 2 random numbers or more.

    Lengths of spans, and of what stays between them, are drawn evenly among all that come to the right sums
    (google-research/text-to-text-transfer-transformer, random_spans_noise_mask).
    """
    noise, count = phase.spans(length)
    cuts = noise - 1
    gone, stay = parted(noise, count, bits[:cuts]), parted(length - noise, count, bits[cuts:])
    lengths = np.stack([stay, gone], axis=1).reshape(-1)
    return np.repeat(np.arange(2 * count) % 2 == 1, lengths)


def parted(items: int, parts: int, bits: np.ndarray) -> np.ndarray:
    """(parts,) int64 of at least 1 with the sum `items`: all are as likely, by items - 1 random numbers."""
    cuts = np.sort(np.argsort(bits[: items - 1], kind="stable")[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=items)


class SpanLayout:
    """Plain text as one stream of which each stretch of N tokens is a row: the text with spans left out, and the spans.

    Training: spans are a function of the seed and the stretch's number, which goes on from epoch to epoch. Validation
    (`names` None): the last stretch has what is left of the text, and spans are always the same.
    """

    def __init__(
        self, data: TokenSet, context: int, end: int, form: SpanForm, names: tuple[object, ...] | None
    ) -> None:
        self._stream, self._form, self._names = PlainLayout(data, context, end, False, names), form, names
        self.weighs = self._stream.weighs
        self.epoch_tokens, self.dropped = self._stream.epoch_tokens, dict[str, int]()
        self.characters = int(data.characters.sum())
        rest = self.epoch_tokens % form.size
        self.blocks_per_epoch = self.epoch_tokens / form.size
        if names is None:  # a single token has nothing beside it
            self.blocks_per_epoch = float(self.epoch_tokens // form.size + (rest > 1))
        self.tokens_per_block = float(self._read(form.size))

    def _read(self, size: int) -> int:
        """Tokens that a row of so much text reads."""
        text, spans = self._form.phase.lengths(size)
        return text + spans + len(self._form.before) + len(self._form.after) + (self._form.start is not None)

    def _size(self, block: int) -> int:
        size = self._form.size
        return size if self._names is not None else min(size, self.epoch_tokens - block * size)

    def epochs(self, blocks: np.ndarray) -> np.ndarray:
        return blocks * self._form.size // self.epoch_tokens

    def counts(self, blocks: int) -> Counts:
        sizes = [(self._form.size, blocks)]
        if self._names is None and blocks == self.blocks_per_epoch and blocks:
            sizes = [(self._form.size, blocks - 1), (self._size(blocks - 1), 1)]
        said = [(self._form.phase.lengths(size)[1] + 1, n) for size, n in sizes]
        return Counts(
            sum(self._read(size) * n for size, n in sizes),
            sum(length * n for length, n in said),
            self._again(blocks),
            blocks,
            min((length for length, n in said if n), default=0),
        )

    def _again(self, blocks: int) -> int:
        """Tokens of the first blocks that are read for another time, in rows of these: by shares of their text."""
        size, whole = self._form.size, self._read(self._form.size)
        first = -(-self.epoch_tokens // size)  # the first row all of whose text is read again
        partly = min(blocks, first) * size - self.epoch_tokens
        return max(0, blocks - first) * whole + (partly * whole // size if partly > 0 else 0)

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        for row, block in zip(rows.tolist(), blocks.tolist(), strict=True):
            read, said = self.sides(block)
            write(batch, row, read, said, self._form.start, 1 if self.weighs is None else self._weights(block))
            batch.repeated[row] = self._again(block + 1) - self._again(block)

    def sides(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """What is read of a block, and what is predicted."""
        return self._form.rows(self.text(block), self.left_out(block))

    def left_out(self, block: int) -> np.ndarray:
        """Bool (N,): which tokens of a block's text are left out."""
        size, names = self._size(block), ("validation",) if self._names is None else self._names
        return drawn_spans(self._form.phase, size, random_bits(size, *names, "spans", block))

    def text(self, block: int) -> np.ndarray:
        """The stretch of text that a block is made of."""
        return self._stream._read(self._places(block)[None])[0][0]

    def _places(self, block: int) -> np.ndarray:
        begin = block * self._form.size
        return np.arange(begin, begin + self._size(block))

    def _weights(self, block: int) -> np.ndarray:
        """How much each token that is predicted counts: as its document; a sentinel as what stands behind it."""
        left_out, before = self.left_out(block), np.maximum(self._places(block) - 1, 0)
        weights = self._stream._weights(before[None])[0]
        spans = np.split(weights, np.flatnonzero(np.diff(left_out)) + 1)[1::2]
        return np.concatenate([part for span in spans for part in (span[:1], span)] + [weights[-1:]])


def write(
    batch: Batch, row: int, read: np.ndarray, said: np.ndarray, start: int | None, weights: np.ndarray | float = 1
) -> None:
    """Put what is read and what is predicted into a row of a blank batch, whose decoder begins with `start`; None: with
    what is read. `weights` are those of what is predicted."""
    if start is None:
        both = np.concatenate([read, said])
        filled, first = len(both) - 1, len(read) - 1
        batch.tokens[row, :filled], batch.targets[row, :filled] = both[:-1], both[1:]
        batch.weights[row, first:filled] = weights
        batch.filled[row] = filled
        return
    assert batch.encoder_tokens is not None and batch.encoder_filled is not None
    batch.encoder_tokens[row, : len(read)], batch.encoder_filled[row] = read, len(read)
    batch.tokens[row, 0], batch.tokens[row, 1 : len(said)] = start, said[:-1]
    batch.targets[row, : len(said)], batch.weights[row, : len(said)] = said, weights
    batch.filled[row] = len(said)
