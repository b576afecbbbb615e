"""What a phase really took: seconds by what they went into, memory at its highest, joules where the machine tells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llmspec.forecast import process_memory
from llmspec.forecast.energy import Meter
from llmspec.forecast.estimates import Measured


class PhaseStats:
    """Counts while a phase runs; `earlier` is the dump of the processes that trained it before."""

    def __init__(self, earlier: Mapping[str, Any] | None = None) -> None:
        known = earlier or {}
        self.seconds: dict[str, float] = dict(known.get("seconds") or {})
        self.times: dict[str, int] = dict(known.get("times") or {})
        """How often: steps, validation tokens, drawn texts, checkpoints."""
        self._held = int(known.get("held_bytes") or 0)
        self._process = known.get("process_bytes")
        self._joules = known.get("joules")
        self._firsts: dict[str, tuple[float, int]] = {}
        self._own: dict[str, tuple[float, int]] = {}
        self._parts: list[tuple[Mapping[str, float], bool]] = []
        self._before, self._apart, self._meter = process_memory.resident_bytes(), process_memory.restart_peak(), Meter()

    @contextmanager
    def spending(self, on: str, times: int = 1) -> Iterator[None]:
        """Counts the seconds of what stands inside."""
        began = time.perf_counter()
        yield
        self.spent(on, time.perf_counter() - began, times)

    def spent(self, on: str, seconds: float, times: int = 1, captured: bool = False) -> None:
        """Counts seconds; `captured` says that graphs were captured in them, as they always are the first time."""
        self.seconds[on] = self.seconds.get(on, 0.0) + seconds
        self.times[on] = self.times.get(on, 0) + times
        before = self._own.get(on)
        if before is None or captured:
            earlier, ones = self._firsts.get(on, (0.0, 0))
            self._firsts[on] = (earlier + seconds, ones + times)
        self._own[on] = (seconds, times) if before is None else (before[0] + seconds, before[1] + times)

    @property
    def steps_here(self) -> int:
        """Steps that this process took."""
        return len(self._parts)

    def stepped(self, seconds: float, parts: Mapping[str, float], captured: bool = False) -> None:
        """Counts the seconds of a step, and what they went into."""
        self._parts.append((dict(parts), captured or not self._parts))
        self.spent("steps", seconds, captured=captured)

    def holds(self, held: int) -> None:
        """Bytes that are allocated now."""
        self._held = max(self._held, held)

    def dump(self) -> dict[str, Any]:
        """All of it as JSON; bytes of the process are those above what it held before the phase began."""
        if self._apart and self._before is not None:
            self._process = max(self._process or 0, process_memory.peak_bytes() - self._before)
        joules = self._meter.joules()
        if joules is not None:
            self._joules, self._meter = (self._joules or 0.0) + joules, Meter()
        return {
            "seconds": dict(self.seconds),
            "times": dict(self.times),
            "held_bytes": self._held,
            "process_bytes": self._process,
            "joules": self._joules,
        }

    def measured(self) -> Measured | None:
        """What this process took for each, the times left out that captured graphs; None without steps."""
        step = self._later("steps")
        if step is None:
            return None
        known, parts = [found for found, first in self._parts if not first], dict[str, float]()
        later = known or [found for found, _ in self._parts]
        for found in later:
            for name, seconds in found.items():
                parts[name] = parts.get(name, 0.0) + seconds / len(later)
        return Measured(step=step, validation=self._later("validation"), sample=self._later("samples"), parts=parts)

    def _later(self, on: str) -> float | None:
        if on not in self._own:
            return None
        (seconds, times), (first, ones) = self._own[on], self._firsts[on]
        if times > ones:
            seconds, times = seconds - first, times - ones
        return seconds / times if times else None
