"""How often a call is repeated, and what each one took."""

from __future__ import annotations

import time
from collections.abc import Callable

Numbers = tuple[float, ...]
SECONDS, FEWEST, MOST = 3.0, 5, 50
"""How long a call is repeated where no number is given, and how often at least and at most."""


def timed(call: Callable[[], object], steps: int | None, seconds: float = SECONDS) -> Numbers:
    """Seconds of each of `steps` calls, or of as many as fit in `seconds`."""
    out: list[float] = []
    began = time.perf_counter()
    while len(out) < (steps or MOST):
        if steps is None and len(out) >= FEWEST and time.perf_counter() - began > seconds:
            break
        before = time.perf_counter()
        call()
        out.append(time.perf_counter() - before)
    return tuple(out)
