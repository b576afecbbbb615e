"""What a machine makes of the pieces of a training step, measured once in some seconds, forward and backward.

The pieces run through the operations that training uses, so that the rates hold kernels, threads and memory as they
are. llmspec.forecast.estimates adds them up to the steps of a plan.
"""

from __future__ import annotations

from llmspec.forecast.microbench import graph_call, usual_seconds
from llmspec.forecast.pieces import (
    CONTEXT,
    HEAD_WIDTH,
    HEADS,
    NUMBERS,
    TOKENS,
    VOCAB,
    WIDTH,
    WIDTHS,
    input_array,
    pieces,
)
from llmspec.model.device import open_device
from llmspec.parts.base import Frozen

DROPOUT = 0.1
EACH, ROUNDS = 0.04, 8
"""Seconds for each piece in a turn of all pieces, and turns."""
BACKWARD = 3.0
"""Products forward and backward for each one forward."""


class Rates(Frozen):
    """Seconds of the pieces of a step, or how fast they go; FLOPs are those of a Plan's products."""

    widths: tuple[int, ...]
    """Inner lengths of the products below."""
    products: tuple[float, ...]
    """FLOPs a second of a layer, with both gradients."""
    attention: float
    """FLOPs a second of attention, its softmax and masked places included."""
    loss: float
    """FLOPs a second of head and loss, beside the products' rate at the same width: a factor."""
    norm: float
    """Seconds a number of a norm and of what stands beside it on the residual stream."""
    gate: float
    """Seconds a number of the hidden layer."""
    update: float
    """Seconds a weight of clipping and Adam."""
    drop: float
    """Seconds a number of dropout, which draws each of them."""
    call: float
    """Seconds of the smallest step: what a step takes whatever its size, without its kernels."""

    def product(self, width: float) -> float:
        """FLOPs a second of products of this inner length."""
        from itertools import pairwise
        from math import log

        known = list(zip(self.widths, self.products, strict=True))
        for (below, slow), (above, fast) in pairwise(known):
            if width <= above:
                part = max(0.0, log(max(width, 1) / below) / log(above / below))
                return slow + part * (fast - slow)
        return known[-1][1]


def measured_rates(device: str) -> Rates:
    """Measures the pieces in this process. Raises ToolchainError where a CPU has no compiler."""
    open_device(device)
    measured = pieces()
    calls = [
        graph_call(device, piece, {name: input_array(name, shape) for name, shape in shapes.items()}, DROPOUT)
        for piece, shapes in measured.values()
    ]
    took = dict(zip(measured, usual_seconds(calls, ROUNDS, EACH), strict=True))
    n = NUMBERS
    rates = Rates(
        widths=WIDTHS,
        products=tuple(BACKWARD * 2 * TOKENS * d * 2 * d / took[f"layer {d}"] for d in WIDTHS),
        loss=1.0,
        attention=BACKWARD * 4 * TOKENS * CONTEXT * HEADS * HEAD_WIDTH / took["attend"],
        norm=took["norm"] / n,
        gate=took["gate"] * 2 / n,
        update=took["update"] / n,
        drop=took["drop"] / n,
        call=took["nothing"],
    )
    lost = BACKWARD * 2 * TOKENS * VOCAB * WIDTH / took["lose"]
    return rates.model_copy(update={"loss": lost / rates.product(WIDTH)})
