"""Waiting for the CPU device without taking a core from it.

tinygrad 0.14.0 waits in a Python loop that never rests. On the CPU the work waited for runs on the same cores, and a
BLAS that has as many threads as there are cores loses one of them to that loop.
"""

from __future__ import annotations

import time
from typing import Any

KNOWN_VERSIONS = ("0.14.0",)
SPIN_SECONDS = 20e-6  # most waits in decoding are shorter than a sleep's least length
REST_SECONDS = 50e-6


def rest_while_waiting() -> bool:
    """Let the CPU device's wait sleep between looks; True if it does now, False with a tinygrad that is not known.

    May be called again. Without it everything works the same, more slowly.
    """
    from tinygrad.runtime import ops_cpu

    device: Any = ops_cpu.CPUDevice
    if getattr(device._wait_signal, "rests", False):
        return True
    if _version() not in KNOWN_VERSIONS:
        return False
    device._wait_signal = _wait_signal
    return True


def _wait_signal(self: Any, sig: Any, value: int, timeout: int | None = None) -> None:
    limit = (timeout if timeout is not None and self.can_recover else self.wait_timeout_ms) / 1000
    clock, rest = time.perf_counter, time.sleep
    changed = clock()
    seen = sig[0]
    spin_until = changed + SPIN_SECONDS
    while seen < value:
        last, seen = seen, sig[0]
        now = clock()
        if seen != last:
            changed = now
        elif now - changed > limit:
            self.on_device_hang()
        if now > spin_until:
            rest(REST_SECONDS)


_wait_signal.rests = True  # type: ignore[attr-defined]


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("tinygrad")
    except metadata.PackageNotFoundError:
        return "unknown"
