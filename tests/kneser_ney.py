"""An interpolated Kneser–Ney bigram model (Chen & Goodman 1999, section 2.7): the least a model must beat."""

from __future__ import annotations

from typing import Any

import numpy as np


class Bigram:
    """Counts of a token sequence (N,), smoothed. Every token of the vocabulary has a probability after every other."""

    def __init__(self, tokens: Any, vocab: int) -> None:
        pairs, counts = np.unique(tokens[:-1].astype(np.int64) * vocab + tokens[1:], return_counts=True)
        self.vocab, self.pairs, self.counts = vocab, pairs, counts
        first, second = pairs // vocab, pairs % vocab
        once, twice = np.sum(counts == 1), np.sum(counts == 2)
        self.discount = once / (once + 2 * twice)
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
