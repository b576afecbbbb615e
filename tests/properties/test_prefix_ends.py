"""Prefix language modelling teaches to end: wherever a document ends behind the cut, its end token is a target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspec.data.layout import Pair, blank
from llmspec.data.pairs import CutLayout, PrefixLayout
from llmspec.data.tokens import TokenSet

END, START = 0, 1


@pytest.mark.parametrize("encoder", [False, True])
@given(lengths=st.lists(st.integers(1, 9), min_size=3, max_size=6), context=st.integers(3, 8))
def test_documents_end_in_what_is_predicted(encoder: bool, lengths: list[int], context: int) -> None:
    """Once each in an epoch, but for those that end in what is only read; and nowhere else."""
    ids = np.arange(2, 2 + sum(lengths)).astype(np.uint16)  # each token is found again
    data = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]), np.array(lengths)[:, None])
    ends = {int(ids[end - 1]) for end in data.offsets[1:]}
    pair = Pair(context, START)
    layout = PrefixLayout(data, context, END, pair, ("s",)) if encoder else CutLayout(data, context, END, True, ("s",))
    rows = -(-layout.epoch_tokens // (max(2, context) if encoder else context))
    batch = blank(rows, context, END, pair if encoder else None)
    layout.gather(batch, np.arange(rows), np.arange(rows))
    for row in range(rows):
        counts = batch.weights[row] > 0
        assert counts[int(counts.argmax()) : batch.filled[row]].all(), "all that stands behind the cut"
        said, before = batch.targets[row][counts].tolist(), batch.tokens[row][counts].tolist()
        if encoder:
            assert batch.encoder_tokens is not None and batch.encoder_filled is not None
            before[0] = int(batch.encoder_tokens[row, batch.encoder_filled[row] - 1])
        for token, last in zip(said, before, strict=True):
            assert (token == END) == (last in ends), (said, before)
