"""One draw at the end of the chain, from random numbers that depend on where they are used and on nothing else.

Shape letter: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmspec.core.problems import LlmspecError
from llmspec.decoding.chain import apply, below_best, probabilities
from llmspec.parts.filters import Context, Filter

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats


NOTHING = -800.0
"""Nats below the best, from which on a probability is 0 in float64."""


class Choice(NamedTuple):
    """A token that was drawn, and what the model thought of it."""

    token: int
    logprob: float
    """Log-probability (nats) under the model's own distribution, before the filters."""
    entropy: float
    """Entropy (bits) of the model's own distribution, before the filters."""
    probability: float
    """Probability with which it was drawn, after the filters."""


def uniform(seed: int, sample: int, position: int) -> float:
    """A number in [0, 1) that belongs to the `position`-th token of the `sample`-th answer under `seed`.

    Counter-based (Philox 4x64, Salmon et al. 2011): no state is carried from draw to draw, so neither the batch nor
    the order in which rows are computed can change a text.
    """
    import numpy as np

    words = np.array([seed % 2**64, sample], dtype=np.uint64)
    # The generator counts up in the low word; positions are kept apart in the next one.
    counter = np.array([0, position, 0, 0], dtype=np.uint64)
    return float(np.random.Generator(np.random.Philox(key=words, counter=counter)).random())


def draw(p: Floats, number: float) -> int:
    """The token that `number` in [0, 1) falls on when the probabilities p (V,) are laid end to end.

    A token of probability 0 is never drawn. Raises ValueError where all are 0.
    """
    import numpy as np

    ends = np.cumsum(p)
    if not (p.size and ends[-1] > 0):
        raise ValueError("there is no token left to draw")
    token = int(np.searchsorted(ends, number * ends[-1], side="right"))
    # The product can round up to the total itself, which is past the end.
    return token if token < p.size else int(np.flatnonzero(p)[-1])


def choose(logits: Floats, context: Context, filters: Sequence[Filter], number: float) -> Choice:
    """Filter the logits (V,) float64 and draw one token with `number` in [0, 1).

    Raises LlmspecError where the logits are not numbers, or all are -inf.
    """
    import numpy as np

    shifted = below_best(logits)
    weights = np.exp(shifted)
    total = weights.sum()
    if not total > 0:  # NaN, too
        raise LlmspecError(
            "the model's logits are not finite", "its training has diverged: take an earlier checkpoint, or train it "
            "with a smaller learning rate", "there is no distribution to draw a token from",
        )  # fmt: skip
    rest = np.log(total)
    filtered, kept = apply(logits, context, filters)
    # Without filters the distribution is the model's own, which is at hand.
    p = weights / total if filtered is logits else probabilities(filtered)
    at = draw(p, number)
    token = at if kept is None else int(kept[at])
    entropy = (rest - (weights * np.maximum(shifted, NOTHING)).sum() / total) / math.log(2)
    return Choice(token, float(shifted[token] - rest), max(0.0, float(entropy)), float(p[at]))
