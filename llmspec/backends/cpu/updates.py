"""Updates of weights and of their states as calls of C; their arguments are those of backends/plain/updates.py."""

from __future__ import annotations

import math

from tinygrad import Tensor

from llmspec.backends.cpu.native import call, shape_of


def square_sum(address: Tensor, x: Tensor) -> Tensor:
    """The sum of all squares, (1,)."""
    return call("square_sum", (1,), (x,), (math.prod(shape_of(x)),), address)[0]


def adam(
    address: Tensor,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    g: Tensor,
    scale: Tensor,
    scalars: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    l2: float,
    decay: float,
) -> list[Tensor]:
    """Adam's step in place; weight and moments as they are afterwards, flat."""
    numbers = (math.prod(shape_of(w)), beta1, 1 - beta1, beta2, 1 - beta2, eps, float(l2), float(decay))
    return call("adam", (w, m, v), (g, scalars, scale), numbers, address)


def muon(
    address: Tensor,
    w: Tensor,
    m: Tensor,
    g: Tensor,
    scale: Tensor,
    scalars: Tensor,
    momentum: float,
    nesterov: bool,
    decay: float,
    iterations: int,
    coefficients: tuple[float, float, float],
) -> list[Tensor]:
    """Muon's step on a matrix, or on each of a stack, in place; weight and momentum as they are afterwards, flat."""
    *stack, rows, columns = shape_of(w)
    numbers = (math.prod(stack), rows, columns, int(nesterov), iterations, float(momentum), float(decay), *coefficients)
    return call("muon", (w, m), (g, scalars, scale), numbers, address)


def lion(
    address: Tensor,
    w: Tensor,
    m: Tensor,
    g: Tensor,
    scale: Tensor,
    scalars: Tensor,
    beta1: float,
    beta2: float,
    decay: float,
) -> list[Tensor]:
    """Lion's step in place; weight and momentum as they are afterwards, flat."""
    numbers = (math.prod(shape_of(w)), beta1, 1 - beta1, beta2, 1 - beta2, float(decay))
    return call("lion", (w, m), (g, scalars, scale), numbers, address)


def schedule_free_adamw(
    address: Tensor,
    states: tuple[Tensor, ...],
    g: Tensor,
    scale: Tensor,
    scalars: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
) -> list[Tensor]:
    """A step of schedule-free AdamW in place; `states` are y, z, x, v and the sum of weights, also afterwards."""
    numbers = (math.prod(shape_of(g)), beta1, 1 - beta1, beta2, 1 - beta2, eps, float(decay))
    return call("schedule_free_adamw", states, (g, scalars, scale), numbers, address)


def adafactor(
    address: Tensor,
    w: Tensor,
    moments: tuple[Tensor, ...],
    g: Tensor,
    scale: Tensor,
    scalars: Tensor,
    eps1: float,
    eps2: float,
    clip_threshold: float,
    decay: float,
    scale_parameter: bool,
) -> list[Tensor]:
    """Adafactor's step in place; weight and moments as they are afterwards, flat."""
    numbers = (eps1, eps2, float(clip_threshold), float(decay), int(scale_parameter))
    if len(moments) == 1:
        sizes: tuple[int, ...] = (math.prod(shape_of(w)),)
        return call("adafactor_vector", (w, *moments), (g, scalars, scale), (*sizes, *numbers), address)
    *stack, rows, columns = shape_of(w)
    sizes = (math.prod(stack), rows, columns)
    return call("adafactor", (w, *moments), (g, scalars, scale), (*sizes, *numbers), address)


def average(address: Tensor, average: Tensor, w: Tensor, share: Tensor) -> list[Tensor]:
    """Moves an average towards a weight in place; the average as it is afterwards, flat."""
    return call("average", (average,), (w, share), (math.prod(shape_of(w)),), address)
