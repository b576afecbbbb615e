"""The baseline itself: a proper distribution, equal to the textbook's formula on a text small enough to count."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from kneser_ney import Bigram, Trigram


@given(st.lists(st.integers(0, 6), min_size=8, max_size=80))
def test_it_is_a_distribution(tokens: list[int]) -> None:
    counts = np.unique(np.array(tokens[:-1]) * 7 + np.array(tokens[1:]), return_counts=True)[1]
    if not (counts == 1).any() or not (counts == 2).any():
        return
    model = Bigram(np.array(tokens), 7)
    for first in range(7):
        total = model.probability(np.full(7, first), np.arange(7)).sum()
        assert abs(total - 1) < 1e-12


@given(st.lists(st.integers(0, 4), min_size=30, max_size=200))
def test_triples_are_a_distribution_too(tokens: list[int]) -> None:
    model = Trigram(np.array(tokens), 5)
    if not (0 < model.discount < 1 and 0 < model.triple_discount < 1):
        return
    for context in range(25):
        total = model.after(np.full(5, context), np.arange(5)).sum()
        assert abs(total - 1) < 1e-12


def test_it_is_the_textbook_formula() -> None:
    tokens = np.array([0, 1, 0, 1, 0, 2, 1, 2, 2])
    model = Bigram(tokens, 3)
    # pairs: 01×2, 10×2, 02, 21, 12, 22  ->  n1 = 4, n2 = 2, D = 4/8
    assert model.discount == 0.5
    kinds = {0: 1, 1: 2, 2: 3}  # in how many contexts each token was seen, of 6 kinds of pairs
    lower = {w: (kinds[w] - 0.5) / 6 + 0.5 * 3 / 6 / 3 for w in kinds}
    expected = (2 - 0.5) / 3 + 0.5 * 2 / 3 * lower[1]
    assert abs(model.probability(np.array([0]), np.array([1]))[0] - expected) < 1e-12
