"""How fast a text is drawn, for people."""

from __future__ import annotations

import time

from llmspec.core.units import duration


class Pace:
    """A clock that hears of each token of `rows` texts that are drawn side by side.

    The first tokens come with the prompt, and the step after them may be compiled then, which all later ones repeat: a
    speed is that of the tokens after that step.
    """

    def __init__(self, rows: int = 1) -> None:
        self._skipped, self.tokens = 2 * rows, 0
        self._began = self._first = self._from = self._last = time.perf_counter()

    def token(self) -> None:
        """One more is there."""
        self._last = time.perf_counter()
        self.tokens += 1
        if self.tokens == 1:
            self._first = self._last
        if self.tokens <= self._skipped:
            self._from = self._last

    @property
    def counted(self) -> tuple[int, float]:
        """(tokens of which the speed is known, the seconds that they took)."""
        return max(0, self.tokens - self._skipped), self._last - self._from

    def told(self, more: str = "") -> str:
        """`41 tokens, 229 tokens/s, first after 0.3s`; `more` stands behind the speed."""
        tokens, seconds = self.counted
        speed = f"{tokens / seconds:.0f} tokens/s{more}, " if tokens and seconds > 0 else ""
        return f"{self.tokens} tokens, {speed}first after {duration(self._first - self._began)}"
