"""Answers that are compared, in rows: each a whole dialogue that sees itself alone; what is compared stands in one row.

T tokens of a row, K texts of a row at most, n documents, m texts of all documents, E entries: pairs, lists, or answers
that are judged by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from llmspec.data.documents import Asking, DocumentLayout
from llmspec.data.layout import Batch, Labels, shuffled
from llmspec.data.packing import pad_after, ranges_from
from llmspec.data.shaping import NOTHING_LEARNED, TOO_LONG
from llmspec.data.tokens import TokenSet
from llmspec.data.turns import spans
from llmspec.parts.phases.turns import LAST_TURN, Turns
from llmspec.parts.tokenizers.special_tokens import ROLES

Together = Literal["pairs", "lists", "thumbs"]
"""What an entry is: a better answer and a worse one, all answers to a prompt, or one that is good or bad."""
UNJUDGED_RANK = "neither the best nor the worst answer"
ONE_ANSWER = "one answer alone, with nothing to compare it with"
"""Reasons for which a document is not read."""


class Entries(NamedTuple):
    """What is read together, in the order of documents."""

    texts: np.ndarray
    """(E, w) int64 numbers of texts, the better ones first; -1 behind the last."""
    document: np.ndarray
    """(E,) int64."""
    targets: np.ndarray
    """(E, w) int32: 0 for the better and 1 for the worse text of a pair; ranks; 1 for good and 0 for bad."""

    @property
    def sizes(self) -> np.ndarray:
        """(E,) texts of each."""
        return (self.texts >= 0).sum(1)


@dataclass(frozen=True)
class ComparedAsking:
    """How a phase reads answers that are compared."""

    together: Together
    longest: int
    """Tokens of a dialogue at most."""
    truncation: bool
    """Whether the beginning of longer prompts is cut off; otherwise their documents are left out."""
    documents: int
    """Texts of a row at most."""

    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def entries(self, data: TokenSet) -> Entries:
        """What is compared in some tokens."""
        assert data.texts is not None and data.ranks is not None, "these tokens are answers"
        first = np.cumsum(data.texts, dtype=np.int64) - data.texts
        if self.together == "thumbs":
            return _judged(data, first)
        found = [_of_size(data, first, int(n), self.together) for n in np.unique(data.texts) if n != 1]
        found += [_matched(data)] if (data.texts == 1).any() else []
        width = max((e.texts.shape[1] for e in found), default=1)
        texts, targets = (
            np.concatenate([np.pad(c, ((0, 0), (0, width - c.shape[1])), constant_values=fill) for c in columns])
            if columns
            else np.zeros((0, width), np.int64)
            for columns, fill in (([e.texts for e in found], -1), ([e.targets for e in found], 0))
        )
        document = np.concatenate([np.zeros(0, np.int64), *(e.document for e in found)])
        order = np.argsort(document, kind="stable")
        return Entries(texts[order], document[order], targets[order].astype(np.int32))

    def blank(self, rows: int) -> Labels:
        """Of rows without an answer."""
        shape = (rows, self.documents)
        zeros = np.zeros(shape, np.float32)
        return Labels(np.zeros(shape, np.int32), zeros, np.full(shape, -1, np.int64), zeros.copy())

    def named(self, target: Any) -> str:
        """What an answer is beside the others."""
        if self.together == "thumbs":
            return "good" if int(target) else "bad"
        if self.together == "pairs":
            return "rejected" if int(target) else "chosen"
        return f"rank {int(target) + 1}"

    def identity(self) -> Any:
        """All of its fields."""
        return ["compared", self.together, self.longest, self.truncation, self.documents]


AnyAsking = Asking | ComparedAsking
"""What a phase asks of the documents of its rows."""


def _of_size(data: TokenSet, first: np.ndarray, n: int, together: Together) -> Entries:
    """Entries of documents with n texts."""
    assert data.texts is not None and data.ranks is not None
    document = np.flatnonzero(data.texts == n)
    texts = first[document][:, None] + np.arange(n)
    ranks = np.asarray(data.ranks)[texts]
    if together == "lists":
        some = (ranks.max(1, initial=0) > ranks.min(1, initial=1 << 30)) if n > 1 else np.zeros(len(texts), bool)
        return Entries(texts[some], document[some], ranks[some])
    pairs = [(i, j) for i, j in combinations(range(n), 2)]
    found = [np.flatnonzero(ranks[:, i] < ranks[:, j]) for i, j in pairs]  # the better answers come first
    of = np.concatenate([np.zeros(0, np.int64), *found])
    sides = np.concatenate(
        [np.zeros((0, 2), np.int64), *(np.tile(p, (len(f), 1)) for p, f in zip(pairs, found, strict=True))]
    )
    order = np.argsort(of, kind="stable")
    chosen = np.take_along_axis(texts[of], sides, 1)[order] if len(of) else np.zeros((0, 2), np.int64)
    return Entries(chosen, document[of][order], np.tile(np.arange(2, dtype=np.int32), (len(of), 1)))


def _matched(data: TokenSet) -> Entries:
    """Good and bad answers judged by themselves, where they are to the same prompt: the first good one with the
    first bad one, and so on; each once."""
    assert data.texts is not None and data.ranks is not None and data.text_ends is not None
    answer, texts = answers_of(data), np.flatnonzero(np.repeat(data.texts, data.texts) == 1)
    ends = np.asarray(data.text_ends)
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    sides = dict[bytes, tuple[list[int], list[int]]]()
    for text in texts.tolist():
        prompt = data.ids(np.arange(begins[text], answer[text, 0])).tobytes()
        sides.setdefault(prompt, ([], []))[int(data.ranks[text] > 0)].append(text)
    said = lambda text: data.ids(np.arange(answer[text, 0], answer[text, 1])).tobytes()
    pairs = [pair for both in sides.values() for pair in zip(*_decided(*both, said), strict=False)]
    chosen = np.array(pairs, np.int64).reshape(-1, 2)
    document = np.repeat(np.arange(len(data.texts)), data.texts)[chosen[:, 0]]
    return Entries(chosen, document, np.tile(np.arange(2, dtype=np.int32), (len(chosen), 1)))


def _decided(
    good: Sequence[int], bad: Sequence[int], said: Callable[[int], bytes]
) -> tuple[Sequence[int], Sequence[int]]:
    """Good and bad answers to one prompt without those that are called both: such a pair would compare nothing."""
    both = {said(text) for text in good} & {said(text) for text in bad} if good and bad else set()
    if not both:
        return good, bad
    return [text for text in good if said(text) not in both], [text for text in bad if said(text) not in both]


def answers_of(data: TokenSet) -> np.ndarray:
    """(m, 2) int64: where the answer of each text begins and ends; both its beginning where it has none."""
    ends = np.asarray(data.text_ends)
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
    said = spans(data._replace(offsets=np.concatenate([np.zeros(1, np.int64), ends])), Turns.of((LAST_TURN,)))
    found = np.stack([begins, begins], 1)
    found[said.dialogue] = np.stack([said.begin, said.end], 1)
    return found


def _judged(data: TokenSet, first: np.ndarray) -> Entries:
    """Each answer that is good, or the best, and each that is bad, or the worst of several."""
    assert data.texts is not None and data.ranks is not None
    document = np.repeat(np.arange(len(data.texts)), data.texts)
    worst = np.maximum.reduceat(data.ranks, first) if len(first) else np.zeros(0, np.int32)
    good, bad = np.asarray(data.ranks) == 0, np.asarray(data.ranks) == np.maximum(worst, 1)[document]
    texts = np.flatnonzero(good | bad)
    return Entries(texts[:, None], document[texts], good[texts, None].astype(np.int32))


class ComparedLayout(DocumentLayout):
    """Entries packed once into rows, which every epoch reads in a new order. Tokens of answers, their ends of turn
    included, count as targets."""

    def __init__(self, data: TokenSet, asking: ComparedAsking, context: int, names: tuple[object, ...] | None) -> None:
        """`names` seed what is packed together and the order of rows; None keeps the entries' own order."""
        assert data.text_ends is not None and data.texts is not None and data.margins is not None
        self._data, self._context, self._names = data, context, names
        self._together, self.weighs = asking.together, data.weights if names is not None else None
        ends = np.asarray(data.text_ends)
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
        self._answer = answers_of(data)
        self._ends, prompts, rest = ends, self._answer[:, 0] - begins, ends - self._answer[:, 0]
        self._entries = entries = asking.entries(data)
        there, texts = entries.texts >= 0, np.maximum(entries.texts, 0)
        sizes = entries.sizes
        answers = np.where(there, rest[texts], 0)
        whole = np.where(there, prompts[texts], 0).max(1, initial=0)
        # All texts of an entry have the same prompt, of which as much is read as there is room for beside all of them.
        room = np.minimum(
            asking.longest - answers.max(1, initial=0), (context - answers.sum(1)) // np.maximum(sizes, 1)
        )
        read = np.minimum(whole, room)
        fits = (read >= 1) & (sizes <= asking.documents) & (asking.truncation | (read == whole))
        spoken = (np.where(there, (self._answer[:, 1] - self._answer[:, 0])[texts], 1) > 0).all(1)
        kept = fits & spoken
        self.cut = int((kept & (read < whole)).sum())
        """Entries of whose prompts the beginning is cut off."""
        n = len(data.texts)
        of = np.repeat(np.arange(n), data.texts)
        has, fit, long = (
            np.bincount(of[entries.texts[mask][there[mask]]], minlength=n) > 0 for mask in (slice(None), kept, ~fits)
        )
        alone = UNJUDGED_RANK if asking.together == "thumbs" else ONE_ANSWER
        self.dropped = {
            alone: int((~has).sum()),
            TOO_LONG: int((has & ~fit & long).sum()),
            NOTHING_LEARNED: int((has & ~fit & ~long).sum()),
        }
        self.kept = np.flatnonzero(kept)
        """(E,) entries that are read; those of a batch are numbered among them."""
        places = answers.sum(1) + read * sizes
        needed = np.maximum(answers.sum(1) + whole * sizes, 1)
        self.needed = int(np.quantile(needed, 0.9, method="higher")) if len(needed) else 0
        """Tokens of a row that hold all but the longest tenth of the entries."""
        self._read, self._number = read, np.full(len(kept), -1, np.int64)
        self._number[self.kept] = np.arange(len(self.kept))
        self._margin = np.asarray(data.margins)[entries.document].astype(np.float32)
        order = self.kept if names is None else self.kept[shuffled(len(self.kept), *names, "packing")]
        supervised = np.where(there, (self._answer[:, 1] - self._answer[:, 0])[texts], 0).sum(1)
        most = asking.documents // max(int(sizes[self.kept].max(initial=1)), 1)
        self._arrange(order, places, supervised, most)
        of = np.unique(entries.document[self.kept])
        self.characters = int(data.characters[of][:, ROLES.index("assistant")].sum())
        """Characters of the answers, of whatever the dialogues before them have too."""

    def entries(self) -> Entries:
        """The entries that are read, by the numbers that batches give them."""
        return Entries(*(column[self.kept] for column in self._entries))

    def gather(self, batch: Batch, rows: np.ndarray, blocks: np.ndarray) -> None:
        T, data, held = self._context, self._data, self._entries
        packed = np.array([self._order(b // self._blocks)[b % self._blocks] for b in blocks.tolist()], np.int64)
        per_row = self._first[packed + 1] - self._first[packed]
        entry = self._dialogue[ranges_from(self._first[packed], per_row)]
        there = held.texts[entry] >= 0
        of, side = np.nonzero(there)
        text, owner, row = held.texts[entry][there], entry[of], np.repeat(rows, per_row)[of]
        first = self._answer[text, 0] - self._read[owner]
        lengths = self._ends[text] - first
        texts_of = np.bincount(np.repeat(np.arange(len(rows)), per_row)[of], minlength=len(rows))
        nth = ranges_from(np.zeros_like(texts_of), texts_of)
        before = np.cumsum(lengths) - lengths
        heads = np.cumsum(texts_of) - texts_of
        begins = row * T + before - np.repeat(before[heads[texts_of > 0]], texts_of[texts_of > 0])
        inside = ranges_from(np.zeros_like(lengths), lengths)
        place, source = np.repeat(begins, lengths) + inside, np.repeat(first, lengths) + inside
        ids = data.ids(source)
        batch.tokens.reshape(-1)[place] = ids
        later = inside > 0
        batch.targets.reshape(-1)[place[later] - 1] = ids[later]
        said = (
            later
            & (source >= np.repeat(self._answer[text, 0], lengths))
            & (source < np.repeat(self._answer[text, 1], lengths))
        )
        batch.weights.reshape(-1)[place[said] - 1] = 1
        batch.documents.reshape(-1)[place] = np.repeat(nth, lengths)
        batch.positions.reshape(-1)[place] = inside
        filled = self._filled[packed]
        batch.filled[rows] = filled
        batch.repeated[rows] = np.where(blocks >= self._blocks, filled, 0)
        pad_after(batch, rows, texts_of, filled)
        labels = batch.labels
        assert labels is not None and labels.records is not None and labels.margins is not None
        labels.targets[row, nth] = held.targets[owner, side]
        labels.weights[row, nth] = 1 if self.weighs is None else self.weighs[held.document[owner]]
        labels.records[row, nth], labels.margins[row, nth] = self._number[owner], self._margin[owner]
