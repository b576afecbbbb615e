"""One thread computes at a time: whatever touches tinygrad, the C functions or their memory does it within `turn()`.

tinygrad is not made for threads, the C functions have one pool and one memory for what lies between, and ctypes lets
other Python threads run meanwhile. So threads queue here, a step each; nothing that a user wrote runs within a turn.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from llmspec.backends import guest
from llmspec.core.problems import RunError

_lock = threading.RLock()
_dropped: deque[Any] = deque()


class _State:
    """Of this process; whoever holds the lock may touch it."""

    depth = 0
    """Turns within turns."""
    blas: tuple[Callable[[], int], Callable[[int], object]] | None = None
    """Reads and sets the number of threads of the BLAS that computes the bands of a product."""
    blas_threads = 0
    """What that number was before this turn."""
    forked = False
    """Whether this process is a child of one that had opened something, and has computed nothing yet."""
    after_fork: tuple[Callable[[], None], ...] = ()
    refused: RunError | None = None


class _Turn:
    """What `turn` gives: no generator, which would take a hundredth of a small model's token."""

    def __enter__(self) -> None:
        _lock.acquire()
        try:
            if _state.depth == 0:
                _begin()
        except BaseException:
            _lock.release()
            raise
        _state.depth += 1

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        _state.depth -= 1
        try:
            if _state.depth == 0:
                _end()
        finally:
            _lock.release()
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            raise out_of_memory(str(error)) from error


def turn() -> _Turn:
    """A context within which no other thread computes: waits until none does.

    Raises RunError where memory ends within, and in a child process that cannot go on with what its parent opened.
    """
    return _one_turn


def _begin() -> None:
    if _state.forked:
        _mend()
    guest.enter()
    _dropped.clear()
    _one_blas_thread()


def _one_blas_thread() -> None:
    if _state.blas:
        threads, choose = _state.blas
        _state.blas_threads = threads()
        if _state.blas_threads != 1:
            choose(1)


def _end() -> None:
    guest.leave()
    if _state.blas and _state.blas_threads > 1:
        _state.blas[1](_state.blas_threads)
    _state.blas_threads = 0


def bands_by(threads: Callable[[], int], choose: Callable[[int], object]) -> None:
    """From now on a BLAS takes part in every turn, with one thread of its own; afterwards it has as many as before."""
    with _lock:
        _state.blas = threads, choose
        if _state.depth:
            _one_blas_thread()


def drop(held: Any) -> None:
    """Lets go of tensors at the next turn: whoever lets go, a garbage collector too, may be any thread."""
    _dropped.append(held)
    if _lock.acquire(blocking=False):
        try:
            if _state.depth == 0:  # a garbage collector may come in the midst of this thread's own turn
                _dropped.clear()
        finally:
            _lock.release()


def out_of_memory(what: str) -> RunError:
    """The sentence for it."""
    return RunError(
        f"out of memory: {what or 'the system has no more'}",
        "a smaller batch, a shorter context, fewer answers at once or a smaller model need less",
    )


# -- fork --------------------------------------------------------------------------------------------------------------
def after_fork(mend: Callable[[], None]) -> None:
    """Calls `mend` in a child of this process before it computes; it raises RunError where that cannot be."""
    if mend not in _state.after_fork:
        _state.after_fork += (mend,)


def _before_fork() -> None:
    _lock.acquire()  # no step is half done in the child, and no lock held by a thread that is not there


def _in_child() -> None:
    _state.forked = bool(_state.after_fork)
    _lock.release()


def _mend() -> None:
    if _state.refused is None:
        try:
            for mend in _state.after_fork:
                mend()
        except RunError as error:
            _state.refused = error
    if _state.refused:
        raise _state.refused
    _state.forked = False


_state, _one_turn = _State(), _Turn()
if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_in_child)
