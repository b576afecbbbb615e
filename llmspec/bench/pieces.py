"""Times one piece of work in a graph of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmspec.bench.task import FEWEST, Numbers, timed

MOST = 2000
"""Calls timed at most: a small piece is called often enough to meet a quiet moment."""


def graph_seconds(device: str, piece: Callable[[Any, dict[str, Any]], tuple[Any, ...]], arrays: dict[str, Any],
                  seconds: float, dropout: float = 0.0) -> Numbers:
    """Seconds of each call of `piece(operations, tensors)`, repeated for some `seconds`; the device is open.

    `arrays` are numpy's. One called `key` (2,) uint32 is the key of dropout, which is off without it.
    """
    from tinygrad import Device, Tensor

    from llmspec.model.lowering import lowering, numpy_inputs

    low, inputs = lowering(device), numpy_inputs(**arrays)
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
    once = max(min(timed(call, FEWEST)), 1e-6)
    return timed(call, max(FEWEST, min(MOST, int(seconds / once))))
