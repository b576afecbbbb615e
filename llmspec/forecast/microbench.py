"""Times pieces of work, each in a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from llmspec.forecast.timing import FEWEST, Numbers, timed

MOST = 2000
"""Calls timed at most: a small piece is called often enough to meet a quiet moment."""
Piece = Callable[[Any, dict[str, Any]], tuple[Any, ...]]
"""(operations, tensors by name) -> what a graph computes."""


def graph_call(device: str, piece: Piece, arrays: dict[str, Any], dropout: float = 0.0) -> Callable[[], None]:
    """A call of the piece's graph that returns when the device is done; captured and warm. The device is open.

    `arrays` are numpy's. One called `key` (2,) uint32 is the key of dropout, which is off without it.
    """
    from tinygrad import Device, Tensor

    from llmspec.backends.backend import backend
    from llmspec.backends.tensors import tensors_from_numpy

    low, inputs = backend(device), tensors_from_numpy(**arrays)
    given = {t.uop.base for t in inputs.values()}

    def step(tensors: dict[str, Tensor]) -> Any:
        key = tensors.get("key")
        out = piece(low.ops(tensors, key, dropout if key is not None else 0.0), tensors)
        Tensor.realize(*out)
        return tuple(t for t in out if t.uop.base not in given) or out[0]

    jitted = low.jit(step)

    def call() -> None:
        jitted({**inputs, **low.inputs})
        Device[Device.DEFAULT].synchronize()

    for _ in range(3):  # capture, and threads that wake up
        call()
    return call


def graph_seconds(device: str, piece: Piece, arrays: dict[str, Any], seconds: float) -> Numbers:
    """Seconds of each call of a piece, repeated for some `seconds`."""
    call = graph_call(device, piece, arrays)
    once = max(min(timed(call, FEWEST)), 1e-6)
    return timed(call, max(FEWEST, min(MOST, int(seconds / once))))


def usual_seconds(calls: Sequence[Callable[[], None]], rounds: int, each: float) -> list[float]:
    """The median time of each call, timed for some `each` seconds in every one of `rounds` turns of them all.

    A machine's speed drifts within seconds: in turns, no call has a fast or a slow moment to itself.
    """
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, found, strict=True):
            (once,) = timed(call, 1)
            times += timed(call, max(1, min(MOST, int(each / max(once, 1e-6)))))
    return [median(times) for times in found]
