"""A count model of a token between its two neighbours, to hold models that see both sides against."""

from __future__ import annotations

from collections import Counter

import numpy as np

Best = dict[int, tuple[int, int]]


class Neighbours:
    """The most frequent token between two neighbours in the training text; where those never stood so, the one that
    is likeliest by what follows the left and what precedes the right one, then by either alone, then of all.

    `hidden` is the token that hides a neighbour: nothing is known of that side.
    """

    def __init__(self, tokens: np.ndarray, vocab: int, hidden: int) -> None:
        """`tokens` (N,): the text, one document after another with their ends."""
        self._vocab, self._hidden = vocab, hidden
        self._all = Counter(tokens.tolist())
        self.most_frequent = self._all.most_common(1)[0][0]
        left, middle, right = (tokens[i : len(tokens) - 2 + i].astype(np.int64) for i in range(3))
        self._between = self._best((left * vocab + right) * vocab + middle)
        self._after, self._before = self._table(left, middle), self._table(right, middle)

    def _best(self, keys: np.ndarray) -> dict[int, int]:
        """Of each pair of neighbours, the token that stood most often between them."""
        found, counts = np.unique(keys, return_counts=True)
        order = np.lexsort((counts, found // self._vocab))
        pairs = found[order] // self._vocab
        last = np.append(pairs[1:] != pairs[:-1], True)
        return dict(zip(pairs[last].tolist(), (found[order] % self._vocab)[last].tolist(), strict=True))

    def _table(self, beside: np.ndarray, middle: np.ndarray) -> dict[int, dict[int, int]]:
        """By neighbour: how often each token stood beside it."""
        found, counts = np.unique(beside * self._vocab + middle, return_counts=True)
        out: dict[int, dict[int, int]] = {}
        for key, count in zip(found.tolist(), counts.tolist(), strict=True):
            out.setdefault(key // self._vocab, {})[key % self._vocab] = count
        return out

    def guess(self, left: int, right: int) -> int:
        """The token between two neighbours."""
        if self._hidden not in (left, right):
            both = self._between.get(left * self._vocab + right)
            if both is not None:
                return both
        after = {} if left == self._hidden else self._after.get(left, {})
        before = {} if right == self._hidden else self._before.get(right, {})
        shared = {token: n * before[token] / self._all[token] for token, n in after.items() if token in before}
        known = shared or after or before or self._all
        return max(known, key=lambda token: (known[token], -token))
