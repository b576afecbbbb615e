"""From logits to probabilities: a softmax that never gives NaN, and the chain of filters between the two.

Shape letters: V vocabulary; `...` any leading axes. Logits are nats; -inf is a token that is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmspec.parts.filters import Context, Filter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from llmspec.parts.filters.base import Floats, Ints


def probabilities(logits: ArrayLike) -> Floats:
    """Softmax over the last axis in float64: (..., V) -> (..., V).

    Counted down from the largest logit, so that nothing overflows. A cut token gets exactly 0, and a row in which
    all are cut gets zeros.
    """
    import numpy as np

    weights = np.exp(below_best(logits))
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=weights, where=total > 0)


def log_softmax(logits: ArrayLike) -> Floats:
    """Logarithm of `probabilities`, in nats, without its underflow: (..., V) -> (..., V). Cut tokens get -inf."""
    import numpy as np

    shifted = below_best(logits)
    total = np.exp(shifted).sum(axis=-1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1.0))


def entropy_bits(p: ArrayLike) -> Floats:
    """Shannon entropy in bits of probabilities: (..., V) -> (...). Tokens with probability 0 add nothing."""
    import numpy as np

    p = np.asarray(p, dtype=np.float64)
    # 0 times the logarithm of the smallest number is 0; `+ 0.0` turns the -0.0 of a certain outcome into 0.0.
    return -(p * np.log2(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=-1) + 0.0


def apply(logits: Floats, context: Context, filters: Sequence[Filter]) -> tuple[Floats, Ints | None]:
    """(logits of the tokens that all filters, in their order, leave of (V,) float64; those tokens). None for all of
    them, none cut.

    What was cut is left out as soon as the filters that follow look at values alone: they have little left to do.
    """
    import numpy as np

    kept: Ints | None = None
    for i, step in enumerate(filters):
        logits = step.apply(logits, context)
        if all(f.by_value for f in filters[i + 1 :]) and logits.min() == -np.inf < logits.max():
            left = np.flatnonzero(logits > -np.inf)
            logits, kept = logits[left], left if kept is None else kept[left]
    return logits, kept


class Step(NamedTuple):
    """What one filter did to one distribution."""

    filter: str
    """The filter's name in the table."""
    before: Floats
    """Probabilities (V,) that it was given."""
    after: Floats
    """Probabilities (V,) that it left."""


def trace(logits: Floats, context: Context, filters: Iterable[Filter]) -> list[Step]:
    """What each filter does to the distribution, in order; the last `after` is what the draw sees."""
    steps = []
    before = probabilities(logits)
    for step in filters:
        logits = step.apply(logits, context)
        after = probabilities(logits)
        steps.append(Step(step.kind, before, after))
        before = after
    return steps


def below_best(logits: ArrayLike) -> Floats:
    """Logits counted down from the largest of their row, so that the best is 0; -inf throughout where all are cut."""
    import numpy as np

    logits = np.asarray(logits, dtype=np.float64)
    best = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):  # +inf, which no model should give, becomes NaN and is refused by the sampler
        return logits - np.where(best == -np.inf, 0.0, best)
