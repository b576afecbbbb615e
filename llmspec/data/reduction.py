"""What counts as one in a step's mean: each token that is learned, or each sample, whatever its length.

B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmspec.data.inputs import Arrays
from llmspec.data.layout import Batch


def by_sample(batches: Sequence[Batch], arrays: Sequence[Arrays]) -> list[Arrays]:
    """The arrays of a step's passes, in whose `loss_weights` (B, T) each sample counts the same, or as its record: a
    document of a row.

    Weights keep their sum over the step, so that it still is the number of tokens that are learned.
    """
    shares = [_shares(batch, made["loss_weights"]) for batch, made in zip(batches, arrays, strict=True)]
    tokens = sum(float(made["loss_weights"].sum()) for made in arrays)
    samples = sum(float(share.sum()) for share in shares)
    scale = tokens / samples if samples else 1.0
    return [
        {**made, "loss_weights": (share * scale).astype(np.float32)} for made, share in zip(arrays, shares, strict=True)
    ]


def _shares(batch: Batch, weights_BT: np.ndarray) -> np.ndarray:
    """(B, T) float64: of each sample's weight, the part that each of its tokens has; together the weight of its record,
    which is 1 where records have none."""
    rows, length = weights_BT.shape
    numbers = batch.documents + np.arange(rows)[:, None] * (length + 1)  # no row has more documents than tokens
    flat = numbers.reshape(-1)
    counted = np.bincount(flat, weights_BT.reshape(-1) > 0)[flat].reshape(rows, length)
    return np.divide(weights_BT, counted, out=np.zeros((rows, length)), where=counted > 0)
