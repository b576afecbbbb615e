"""Updates of weights and of their states as calls of C; all give what they write as it is afterwards, flat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinygrad import Tensor

from llmspec.backends.cpu.native import call, shape_of
from llmspec.backends.plain.updates import NEWTON_SCHULZ
from llmspec.parts.ops import Update
from llmspec.parts.updates import AdafactorStep, AdamStep, LionStep, MuonStep, Rule, ScheduleFreeStep


def square_sum(address: Tensor, x: Tensor) -> Tensor:
    """The sum of all squares, (1,)."""
    return call("square_sum", (1,), (x,), (math.prod(shape_of(x)),), address)[0]


def carried_out(address: Tensor, name: str, asked: Update, *numbers: float) -> list[Tensor]:
    """A call of the function of a rule."""
    return call(name, asked.written, (asked.g, asked.scalars, asked.scale), numbers, address)


def adam(address: Tensor, asked: Update, rule: AdamStep) -> list[Tensor]:
    """Adam's step."""
    beta1, beta2, eps, l2, decay = rule
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, eps, float(l2), float(decay))
    return carried_out(address, "adam", asked, math.prod(shape_of(asked.written[0])), *numbers)


def muon(address: Tensor, asked: Update, rule: MuonStep) -> list[Tensor]:
    """Muon's step."""
    momentum, nesterov, decay, iterations = rule
    *stack, rows, columns = shape_of(asked.written[0])
    numbers = (int(nesterov), iterations, float(momentum), float(decay), *NEWTON_SCHULZ)
    return carried_out(address, "muon", asked, math.prod(stack), rows, columns, *numbers)


def lion(address: Tensor, asked: Update, rule: LionStep) -> list[Tensor]:
    """Lion's step."""
    beta1, beta2, decay = rule
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, float(decay))
    return carried_out(address, "lion", asked, math.prod(shape_of(asked.written[0])), *numbers)


def schedule_free_adamw(address: Tensor, asked: Update, rule: ScheduleFreeStep) -> list[Tensor]:
    """A step of schedule-free AdamW."""
    beta1, beta2, eps, decay = rule
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, eps, float(decay))
    return carried_out(address, "schedule_free_adamw", asked, math.prod(shape_of(asked.g)), *numbers)


def adafactor(address: Tensor, asked: Update, rule: AdafactorStep) -> list[Tensor]:
    """Adafactor's step."""
    eps1, eps2, clip_threshold, decay, scale_parameter = rule
    numbers = (eps1, eps2, float(clip_threshold), float(decay), int(scale_parameter))
    w, *moments = asked.written
    if len(moments) == 1:
        return carried_out(address, "adafactor_vector", asked, math.prod(shape_of(w)), *numbers)
    *stack, rows, columns = shape_of(w)
    return carried_out(address, "adafactor", asked, math.prod(stack), rows, columns, *numbers)


STEPS: dict[type[Rule], Callable[[Tensor, Update, Any], list[Tensor]]] = {
    AdamStep: adam,
    LionStep: lion,
    ScheduleFreeStep: schedule_free_adamw,
    AdafactorStep: adafactor,
    MuonStep: muon,
}
"""The rules that have a function in C."""


def average(address: Tensor, average: Tensor, w: Tensor, share: Tensor) -> list[Tensor]:
    """Moves an average towards a weight in place; the average as it is afterwards, flat."""
    return call("average", (average,), (w, share), (math.prod(shape_of(w)),), address)
