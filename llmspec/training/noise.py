"""Noise on the embeddings of what is trained on, as in NEFTune (Jain et al. 2023, arXiv:2310.05914, algorithm 1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def embedding_noise(alpha: float, shape: tuple[int, int, int], *names: object) -> np.ndarray:
    """Float32 noise of a shape (B, T, D): even between −m and m, m = alpha / √(T · D). It depends on `names` alone."""
    import numpy as np

    from llmspec.data.layout import random_bits

    bound = alpha / math.sqrt(shape[1] * shape[2])
    even = (random_bits(math.prod(shape), *names, "embedding noise") >> np.uint64(11)) / 2.0**53
    return ((2 * even - 1) * bound).astype(np.float32).reshape(shape)
