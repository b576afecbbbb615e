"""Ctrl-C that saves: the first signal ends the step and writes a checkpoint, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The run was asked to stop and has saved; `step` of `phase` is on disk."""

    def __init__(self, phase: str, step: int) -> None:
        super().__init__(f"stopped in {phase} after step {step}")
        self.phase, self.step = phase, step


class Stop:
    """Whether somebody asked to stop."""

    asked = False


@contextmanager
def on_signals() -> Iterator[Stop]:
    """Turns SIGINT and SIGTERM into `Stop.asked` while inside; only where signals can be caught (the main thread)."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    caught = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.getsignal(s) for s in caught}

    def ask(number: int, frame: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    for s in caught:
        signal.signal(s, ask)
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
