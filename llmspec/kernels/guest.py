"""tinygrad's settings are ours while we compute, and the user's otherwise.

A user who imported tinygrad first goes on with the device and the settings of before. Where llmspec was first, they
stay as llmspec has set them, since nobody else has asked for any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmspec.kernels import shield

DEPTH = 10_000
"""The recursion limit that tinygrad's graphs need; it sets it itself, for the whole process, when it is imported."""
NAMES = ("DEV", "JIT", "BEAM")
_ours: dict[str, Any] = {}


def choose(device: str, beam: int) -> None:
    """From now on we compute on this device, with searches of this width. Raises nothing; tinygrad is imported."""
    from tinygrad.helpers import DEV, JIT

    if device != DEV.device:  # Device.DEFAULT would look for every kind of device there is, and cannot be assigned
        DEV.value = device  # type: ignore[assignment]
    JIT.value = max(1, JIT.value)  # steps are captured
    _set({"BEAM": beam})
    _ours.update(_now())


def enter() -> dict[str, Any]:
    """Our settings; returns those of before, for `leave`."""
    before = _now()
    if shield.early:
        _set(_ours)
    if before and before["depth"] < DEPTH:
        sys.setrecursionlimit(DEPTH)
    return before


def leave(before: dict[str, Any]) -> None:
    """The settings of before."""
    if before:
        sys.setrecursionlimit(before["depth"])
        if shield.early:
            _set(before)


@contextmanager
def visit() -> Iterator[None]:
    """What is imported, opened and set within changes no setting of tinygrad, and no recursion limit, beyond it."""
    before = _now() or {"depth": sys.getrecursionlimit()}
    sys.setrecursionlimit(max(before["depth"], DEPTH))
    try:
        yield
    finally:
        leave(before)


def _now() -> dict[str, Any]:
    helpers: Any = sys.modules.get("tinygrad.helpers")
    if helpers is None:
        return {}
    return {"depth": sys.getrecursionlimit(), **{name: helpers.ContextVar._cache[name].value for name in NAMES}}


def _set(values: dict[str, Any]) -> None:
    helpers: Any = sys.modules["tinygrad.helpers"]
    for name in NAMES:
        if name in values:
            helpers.ContextVar._cache[name].value = values[name]
