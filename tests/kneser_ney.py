"""Interpolated Kneser–Ney models (Chen & Goodman 1999, section 2.7): the least a model must beat."""

from __future__ import annotations

from typing import Any

import numpy as np


class Bigram:
    """Counts of a token sequence (N,), smoothed. Every token of the vocabulary has a probability after every other."""

    def __init__(self, tokens: Any, vocab: int) -> None:
        found = np.unique(tokens[:-1].astype(np.int64) * vocab + tokens[1:], return_counts=True)
        self._count(*found, vocab)

    def _count(self, pairs: Any, counts: Any, vocab: int) -> None:
        self.vocab, self.pairs, self.counts = vocab, pairs, counts
        first, second = pairs // vocab, pairs % vocab
        once, twice = np.sum(counts == 1), np.sum(counts == 2)
        self.discount = once / max(1, once + 2 * twice)
        self.total = np.bincount(first, counts, vocab)
        self.followers = np.bincount(first, minlength=vocab)
        # The last word goes to a uniform distribution, so that a token never seen still costs a finite number of nats.
        kinds = np.bincount(second, minlength=vocab)
        seen = np.sum(kinds > 0)
        lower = np.maximum(kinds - self.discount, 0) / kinds.sum()
        self.continuation = lower + self.discount * seen / kinds.sum() / vocab

    def probability(self, first: Any, second: Any) -> Any:
        """p(second | first), elementwise over (N,) ids."""
        wanted = first.astype(np.int64) * self.vocab + second
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        count = np.where(self.pairs[place] == wanted, self.counts[place], 0)
        total = self.total[first]
        known = np.maximum(total, 1)
        direct = np.maximum(count - self.discount, 0) / known
        rest = np.where(total > 0, self.discount * self.followers[first] / known, 1.0)
        return direct + rest * self.continuation[second]

    def nats(self, tokens: Any) -> float:
        """Negative log-likelihood of tokens[1:], each after the one before it."""
        return float(-np.log(self.probability(tokens[:-1], tokens[1:])).sum())


class Trigram(Bigram):
    """The same over triples; below them stand pairs, counted by how many different tokens they followed."""

    def __init__(self, tokens: Any, vocab: int) -> None:
        tokens = tokens.astype(np.int64)
        triples, counts = np.unique((tokens[:-2] * vocab + tokens[1:-1]) * vocab + tokens[2:], return_counts=True)
        self._count(*np.unique(triples % vocab**2, return_counts=True), vocab)
        self.triples, self.triple_counts = triples, counts
        once, twice = np.sum(counts == 1), np.sum(counts == 2)
        self.triple_discount = once / max(1, once + 2 * twice)
        self.contexts, place = np.unique(triples // vocab, return_inverse=True)
        self.context_total, self.context_kinds = np.bincount(place, counts), np.bincount(place)

    def after(self, context: Any, third: Any) -> Any:
        """p(third | context), elementwise; a context is first · vocab + second."""
        wanted = context * self.vocab + third
        place = np.minimum(np.searchsorted(self.triples, wanted), len(self.triples) - 1)
        count = np.where(self.triples[place] == wanted, self.triple_counts[place], 0)
        at = np.minimum(np.searchsorted(self.contexts, context), len(self.contexts) - 1)
        known = self.contexts[at] == context
        total = np.where(known, self.context_total[at], 1)
        rest = np.where(known, self.triple_discount * self.context_kinds[at] / total, 1.0)
        direct = np.where(known, np.maximum(count - self.triple_discount, 0) / total, 0.0)
        return direct + rest * self.probability(context % self.vocab, third)

    def nats(self, tokens: Any) -> float:
        """Negative log-likelihood of tokens[1:], the first of them after one token, the others after two."""
        tokens = tokens.astype(np.int64)
        rest = -np.log(self.after(tokens[:-2] * self.vocab + tokens[1:-1], tokens[2:])).sum()
        return float(rest - np.log(self.probability(tokens[:1], tokens[1:2])).sum())
