"""How far something is that takes long: share, pace and time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmspec.core.units import count, duration

AFTER = 2.0
"""Seconds before a pace says anything."""


class Headway:
    """Words for a `progress(what, done, total)` call; pace and time count from the first call with the same `what`,
    and anew where `done` falls: the same thing is done again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._what = ""
        self._began = self._first = self._last = 0.0

    def line(self, what: str, done: float, total: float) -> str:
        """`reading a.txt 34%, 8.2M a second, 12s left`; where no total is known, the time so far."""
        now = self._clock()
        if what != self._what or done < self._last:
            self._what, self._began, self._first = what, now, done
        self._last = done
        seconds, more = now - self._began, done - self._first
        share = f" {done / total:.0%}" if total and done else ""
        if seconds < AFTER:
            return what + share
        if not (total and more > 0):
            return f"{what}, {duration(seconds)}"
        pace = more / seconds
        return f"{what}{share}, {count(pace)} a second, {duration((total - done) / pace)} left"
