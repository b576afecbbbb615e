"""Joules that the processor took, where Linux tells them (RAPL, the running average power limit of Intel and AMD)."""

from __future__ import annotations

from pathlib import Path

ZONES = Path("/sys/class/powercap")


class Meter:
    """Counts from its making on. The counters are the whole machine's, and start again at a largest value."""

    def __init__(self, zones: Path = ZONES) -> None:
        # The packages alone: their parts (`intel-rapl:0:0`) are counted in them.
        self._zones = sorted(z for z in zones.glob("intel-rapl:*") if z.name.count(":") == 1)
        self._last = [_microjoules(z, "energy_uj") for z in self._zones]
        self._sum = 0

    def joules(self) -> float | None:
        """Joules so far; None where the machine does not tell. Asked once an hour, it misses no turn of a counter."""
        found = [_microjoules(z, "energy_uj") for z in self._zones]
        if not found or None in found or None in self._last:
            return None
        for zone, before, now in zip(self._zones, self._last, found, strict=True):
            assert before is not None and now is not None
            turn = _microjoules(zone, "max_energy_range_uj") or 0
            self._sum += now - before if now >= before else now + max(0, turn - before)
        self._last = found
        return self._sum / 1e6


def _microjoules(zone: Path, name: str) -> int | None:
    try:
        return int((zone / name).read_text("ascii"))
    except (OSError, ValueError):
        return None
