"""Rows of plain text cut into shorter ones, and put together again.

B rows of T tokens, L tokens of a shorter row, which divide T: B·T/L rows of L.
"""

from __future__ import annotations

import numpy as np

from llmspec.data.layout import Batch


def cut(batch: Batch, length: int, apart: bool) -> Batch:
    """A batch of full rows as rows of `length` tokens, in their order: each is read by itself, from position 0. With
    `apart`, documents are told apart within each."""
    rows, context = batch.tokens.shape
    if length == context:
        return batch
    parts = context // length

    def short(array: np.ndarray) -> np.ndarray:
        return array.reshape(rows * parts, length)

    places = np.broadcast_to(np.arange(length, dtype=np.int32), (rows * parts, length))
    documents = short(batch.documents)
    documents = documents - documents[:, :1]
    if apart:
        begins = np.diff(documents, axis=1, prepend=-1) != 0
        places = places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    before = np.arange(parts, dtype=np.int32) * length
    # What is filled comes first in a row, and what is repeated last.
    filled = np.clip(batch.filled[:, None] - before, 0, length)
    repeated = np.clip(batch.repeated[:, None] - (context - before - length), 0, length)
    return batch._replace(
        tokens=short(batch.tokens),
        targets=short(batch.targets),
        weights=short(batch.weights),
        documents=documents.astype(np.int32),
        positions=places.astype(np.int32),
        source=np.repeat(batch.source, parts),
        filled=filled.reshape(-1).astype(np.int32),
        repeated=repeated.reshape(-1).astype(np.int32),
    )


def joined(shorter: Batch, whole: Batch) -> Batch:
    """What is read, asked for and weighed in shorter rows, as the whole rows that they were cut from."""
    if shorter.tokens.shape == whole.tokens.shape:
        return shorter
    shape = whole.tokens.shape
    return whole._replace(
        tokens=shorter.tokens.reshape(shape),
        targets=shorter.targets.reshape(shape),
        weights=shorter.weights.reshape(shape),
    )
