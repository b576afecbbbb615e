"""Signals that save: the first ends the step and writes a checkpoint, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""What Ctrl-C, `kill`, a closed terminal and cluster schedulers send before they end a process."""


class Interrupted(Exception):
    """The run was asked to stop and all is saved; `step` of `phase` is on disk ('' and 0: no phase has begun)."""

    def __init__(self, phase: str, step: int, why: str = "", status: int = 130) -> None:
        where = f"in {phase} after step {step}" if phase else "before the first step"
        super().__init__(f"stopped {where}" + (f" ({why})" if why else ""))
        self.phase, self.step, self.why, self.status = phase, step, why, status
        self.told = False
        """Whether somebody has said so."""


class Now(KeyboardInterrupt):
    """Raised by a signal where nothing has to be saved first."""


class Stop:
    """Whether somebody asked to stop, and why; and what is to be saved before."""

    def __init__(self) -> None:
        self.asked = False
        self.why = ""
        """The signal's name, or what else ends the run."""
        self.status = 130
        """The exit status that goes with it: 128 and the signal's number."""
        self.broken = False
        """Whether it was the output that ended."""
        self.unsaved = False
        """Whether a signal has to wait, since steps were taken that no checkpoint holds yet."""
        self.phase, self.step = "", 0
        """What the last checkpoint holds."""

    def ask(self, why: str) -> None:
        """Ends the run after its current step."""
        self.asked, self.why = True, self.why or why

    def saved(self, phase: str, step: int) -> None:
        """A checkpoint is on disk."""
        self.unsaved, self.phase, self.step = False, phase, step

    def interrupted(self) -> Interrupted:
        return Interrupted(self.phase, self.step, self.why, self.status)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """What a signal does: ends at once where nothing is lost by it, or where it is not the first."""
        again = self.asked
        self.ask(signal.Signals(number).name)
        if not again:
            self.status = 128 + number
        if again or not self.unsaved:
            raise Now


@contextmanager
def on_signals() -> Iterator[Stop]:
    """Turns signals into `Stop.asked`, or into Interrupted where nothing has to be saved first.

    Signals that were ignored before (as `nohup` does) stay ignored. Where signals cannot be caught, which is outside
    of the main thread, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}
    for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN and handler is not None:  # None: not set by Python, so not ours to change
            before[number] = handler
            signal.signal(number, stop.handle)
    try:
        yield stop
    except Now:
        raise stop.interrupted() from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
