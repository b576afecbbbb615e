"""Which query may look at which key of its sequence: a relation on places, and the same as a range of keys a query.

Shape letters: B sequences, T tokens.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from llmspec.parts.base import ModelPart


class Mask(ModelPart):
    """A relation on (query, key) places. `allows` says it pair by pair, `ranges` as first and last key of each query.

    `allows` uses only comparisons, differences of places compared with a constant, `&` and `|`, so that the same lines
    serve numpy arrays, graph tensors and the check that looks at them in general (llmspec/compiler/checks.py).
    """

    causal: ClassVar[bool] = False
    """Whether no token sees one that comes after it, so that next tokens can be predicted at every place."""
    has_prefix: ClassVar[bool] = False
    """Whether it asks which tokens belong to a prefix."""
    window: int | None = Field(None, gt=0, le=1 << 24)
    """How many tokens a query sees on each side that it may look at, its own among them; all if omitted."""

    @property
    def name(self) -> str:
        """What tells it from other masks: its kind, and its window."""
        return self.kind if self.window is None else f"{self.kind}_{self.window}"

    def reaches_back(self, query: Any, key: Any) -> Any:
        """Whether the key is no further back than the window; True where there is none."""
        return True if self.window is None else query - key < self.window

    def reaches_ahead(self, query: Any, key: Any) -> Any:
        """The same of keys that come later."""
        return True if self.window is None else key - query < self.window

    def allows(self, query: Any, key: Any, key_in_prefix: Any = False) -> Any:
        """Broadcasts over its arguments; True where the query may see the key of its own document."""
        raise TypeError(f"{type(self).__name__} says nothing of who sees whom")

    def ends(self, place: Any, end: Any, prefix_end: Any) -> Any:
        """One past the last key that each query sees, where its document ends at `end` and its prefix at `prefix_end`:
        int arrays that broadcast with `place`."""
        raise TypeError(f"{type(self).__name__} says nothing of who sees whom")

    def keys(self, context: int) -> int:
        """The most keys that a query of a full context sees."""
        return context if self.window is None else min(context, self.window)
