"""A word on standard error while something takes long: a spinner on a terminal, a line elsewhere, nothing if quick."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from llmspec.render.terminal import OutputLost, Text, err, spinner

AFTER = 1.0
"""Seconds that pass without a word."""


@contextmanager
def waiting(what: str, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """Says `what` is being done once it takes longer than AFTER seconds, then what the yielded call is told.

    Nothing is left of it on a terminal; elsewhere nothing is said, or with `lines` a line once and not again. An
    output that is gone is no reason to fail.
    """
    console = err()
    status = console.status(Text(what), spinner=spinner(console)) if console.is_terminal else None
    lock, ended, said = threading.Lock(), False, what

    def begin() -> None:
        with lock:
            if ended:
                return
            with suppress(OutputLost):
                if status:
                    status.start()
                elif lines:
                    console.print(f"{said} …")

    def say(text: str) -> None:
        nonlocal said
        said = text
        if status:
            status.update(Text(text))

    timer = threading.Timer(AFTER, begin)
    timer.daemon = True
    timer.start()
    try:
        yield say
    finally:
        timer.cancel()
        with lock:
            ended = True
        if status:
            status.stop()
