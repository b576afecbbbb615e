"""Decoding filters: pure functions of float64 logits on the host.

Shape letter: V vocabulary. A logit of -inf means that the token is cut: its probability is exactly 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from llmspec.parts.base import Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


class Context(NamedTuple):
    """What a filter may look at besides the logits: token ids before the one to choose."""

    prompt: Ints
    """The prompt's tokens."""
    generated: Ints
    """The tokens drawn so far."""


class Filter(Part):
    """One step between the model's logits and the draw. Its fields are keys of `decoding:`; defaults do nothing."""

    kind: ClassVar[str] = ""
    """Its name in the table and in `order:`; not a key, since all filters' keys stand side by side."""
    truncates: ClassVar[bool] = False
    """Whether it only cuts tokens, and leaves the logits of those it keeps as they are."""
    keeps_best: ClassVar[bool] = False
    """Whether no token that it cuts is more probable than one that it keeps."""

    by_value: ClassVar[bool] = False
    """Whether it looks at logits and their order alone, not at whose they are: tokens that were cut before it make no
    difference to it."""

    def active(self) -> bool:
        """Whether these settings change anything."""
        raise TypeError(f"{type(self).__name__} does not say when it acts")

    def apply(self, logits: Floats, context: Context) -> Floats:
        """Logits (V,) float64 from logits (V,) float64, never +inf or NaN; a token that is cut gets -inf.

        Never changes its input, which it may return where there is nothing to do. A token cut before stays cut,
        and at least one token stays unless all were cut before.
        """
        raise TypeError(f"{type(self).__name__} does nothing")


def keep_above(logits: Floats, border: float, count: int) -> Floats:
    """The `count` largest logits, the rest cut; `border` is the smallest value kept, and of its ties the lowest
    ids win."""
    import numpy as np

    ids = np.flatnonzero(logits >= border)
    kept = np.full_like(logits, -np.inf)
    kept[ids] = logits[ids]
    if ids.size > count:
        kept[np.flatnonzero(logits == border)[count - ids.size :]] = -np.inf
    return kept
