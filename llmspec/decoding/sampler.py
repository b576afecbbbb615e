"""One draw at the end of the chain, from random numbers that depend on where they are used and on nothing else.

Shape letter: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmspec.core.hashing import digest
from llmspec.core.problems import LlmspecError
from llmspec.decoding.chain import apply, below_best, probabilities
from llmspec.parts.filters import Context, Filter

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats


DRAWS = 2
"""Raised with every change by which a seed draws other texts than before."""
NOTHING = -800.0
"""Nats below the best, from which on a probability is 0 in float64."""


class NotFinite(LlmspecError):
    """A model's logits are no numbers, so that nothing can be drawn."""


class Choice(NamedTuple):
    """A token that was drawn, and what the model thought of it."""

    token: int
    logprob: float
    """Log-probability (nats) under the model's own distribution, before the filters."""
    entropy: float
    """Entropy (bits) of the model's own distribution, before the filters."""
    probability: float
    """Probability with which it was drawn, after the filters."""


class Weighed(NamedTuple):
    """The model's own distribution after one row, before the filters."""

    shifted: Floats
    """Logits (V,) counted down from the largest."""
    weights: Floats
    """Their exponentials (V,)."""
    total: float
    """The sum of the weights."""
    entropy: float
    """In bits."""


NUMBERS = 1 << 17
"""Logits that are weighed at once: their arrays stay in a processor's cache."""


def weigh(logits: Floats) -> list[Weighed]:
    """Each row of logits (R, V) float64, as it is weighed alone."""
    import numpy as np

    rows, found = max(1, NUMBERS // max(1, logits.shape[-1])), list[Weighed]()
    for begin in range(0, len(logits), rows):
        shifted = below_best(logits[begin : begin + rows])
        weights = np.exp(shifted)
        totals = weights.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite is refused where it is drawn from
            spread = np.maximum(shifted, NOTHING)
            spread = np.multiply(spread, weights, out=spread).sum(axis=-1) / totals
            entropies = np.maximum(0.0, (np.log(totals) - spread) / math.log(2))
        found += map(Weighed, shifted, weights, totals.tolist(), entropies.tolist())
    return found


class Uniforms:
    """Numbers in [0, 1) of one answer, `sample` to `prompt` under `seed`: one that belongs to each of its positions.

    Counter-based (Philox 4x64, Salmon et al. 2011): no state is carried from draw to draw, so neither the batch nor
    the order in which rows are computed can change a text.
    """

    def __init__(self, seed: int, sample: int, prompt: int = 0) -> None:
        import numpy as np

        # The generator counts up in the low word; positions are kept apart in the next one, prompts in those above.
        key, counter = (seed % 2**64, sample), (0, 0, prompt % 2**64, 0)
        self._bits = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
        self._next = 0

    def __call__(self, position: int) -> float:
        """The number of a position; quickest in turn."""
        if position != self._next:
            self._bits.advance((position - self._next) % 2**192 << 64)
        drawn = int(self._bits.random_raw()) >> 11
        self._bits.advance((1 << 64) - 1)
        self._next = position + 1
        return drawn * 2.0**-53


def uniform(seed: int, sample: int, position: int, prompt: int = 0) -> float:
    """A number in [0, 1) that belongs to the `position`-th token of the `sample`-th answer to `prompt` under `seed`."""
    return Uniforms(seed, sample, prompt)(position)


def number_of(ids: Sequence[int]) -> int:
    """What stands for a prompt (token ids) where numbers are drawn: 64 bits of its hash.

    Answers to two prompts under one seed are independent; else one unlucky number would be in all of them, and a mean
    over hundreds of prompts as uncertain as that of a few.
    """
    return int(digest([int(i) for i in ids])[:16], 16)


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


def choose(
    logits: Floats, context: Context, filters: Sequence[Filter], number: float, own: Weighed | None = None
) -> Choice:
    """Filter the logits (V,) float64 and draw one token with `number` in [0, 1). `own` are they as `weigh` gives them.

    Raises NotFinite where the logits are not numbers, or all are -inf.
    """
    import numpy as np

    shifted, weights, total, entropy = weigh(logits[None])[0] if own is None else own
    if not total > 0:  # NaN, too
        raise NotFinite(
            "the model's logits are not finite", "its training has diverged: take an earlier checkpoint, or train it "
            "with a smaller learning rate", "there is no distribution to draw a token from",
        )  # fmt: skip
    filtered, kept = apply(logits, context, filters)
    # Without filters the distribution is the model's own, which is at hand.
    p = weights / total if filtered is logits else probabilities(filtered)
    at = draw(p, number)
    token = at if kept is None else int(kept[at])
    return Choice(token, float(shifted[token] - np.log(total)), entropy, float(p[at]))
