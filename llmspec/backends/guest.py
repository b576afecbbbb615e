"""tinygrad's settings are ours while we compute, and the user's otherwise.

A user who imported tinygrad first goes on with the device and the settings of before. Where llmspec was first, they
stay as llmspec has set them, since nobody else has asked for any.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmspec.backends import shield, tinygrad_private

DEPTH = 10_000
"""The recursion limit that tinygrad's graphs need; it sets it itself, for the whole process, when it is imported."""
NAMES = ("DEV", "JIT", "BEAM")
_lock = threading.Lock()
_ours: dict[str, Any] = {}
_before: dict[str, Any] = {}
"""What holds once the last visit has ended."""
_visits: list[int] = []
_device: list[str] = []


def choose(device: str, beam: int) -> None:
    """From now on we compute on this device, with searches of this width. Raises nothing; tinygrad is imported."""
    from tinygrad.helpers import DEV, JIT

    if device != DEV.device:  # Device.DEFAULT would look for every kind of device there is, and cannot be assigned
        DEV.value = device
    JIT.value = max(1, JIT.value)  # steps are captured
    _set({"BEAM": beam})
    _ours.update({"DEV": DEV.value, "JIT": JIT.value, "BEAM": beam})
    _device[:] = [device]


def chosen() -> str | None:
    """The device that this process computes on; None before one was chosen."""
    return _device[0] if _device else None


@contextmanager
def visit() -> Iterator[None]:
    """Our settings within, and those of before once nobody is within any more: threads and visits may overlap."""
    enter()
    try:
        yield
    finally:
        leave()


def enter() -> None:
    """The beginning of a visit."""
    with _lock:
        if not _visits:
            _before.clear()
            _before.update(_now())
        _visits.append(1)
        if shield.early:
            _set(_ours)
        if sys.getrecursionlimit() < DEPTH:
            sys.setrecursionlimit(DEPTH)


def leave() -> None:
    """The end of a visit."""
    with _lock:
        _visits.pop()
        if not _visits:
            sys.setrecursionlimit(_before["depth"])
            if shield.early:
                _set(_before)


def _now() -> dict[str, Any]:
    wanted = NAMES if shield.early and "tinygrad.helpers" in sys.modules else ()
    held = {name: tinygrad_private.settings()[name].value for name in wanted}
    return {"depth": sys.getrecursionlimit(), **held}


def _set(values: dict[str, Any]) -> None:
    for name in NAMES:
        if name in values:
            tinygrad_private.settings()[name].value = values[name]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
