"""What the update of a step changes and reads: states by tensor, groups of tensors with a learning rate of their own,
and the numbers that follow the step.

A group is what `lr_multipliers`, `layerwise_lr_decay` and `unfreeze` make of a tensor's name. Every group has the
optimizer's numbers for itself, so that nothing of it is frozen in a captured step.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from math import prod
from typing import NamedTuple

from llmspec.compiler import walk
from llmspec.compiler.plan import ModelPlan, TensorPlan
from llmspec.parts.optimizers.base import TRAINED, StateShapes
from llmspec.parts.phases import Phase


class UpdateGroup(NamedTuple):
    """How a tensor learns beside the others."""

    multiplier: float = 1.0
    """What its learning rate is multiplied with."""
    start: float = 0.0
    """Share of the phase after which it begins to train."""

    def begins(self, steps: int) -> int:
        """Steps that are taken before it trains; never all of them."""
        return min(int(self.start * steps + 1e-9), max(0, steps - 1))


def tensor_states(tensor: TensorPlan, phase: Phase) -> StateShapes:
    """Shapes of the states of a tensor that is trained, by name; float32."""
    found = phase.optimizer.state(tensor.role, tensor.shape)
    return {**found, TRAINED: tensor.shape} if phase.ema is not None else found


def state_shapes(model: ModelPlan, phase: Phase) -> StateShapes:
    """A phase's state by name `<weight>:<state>`; zero at step 0 but for those in `copied`."""
    return {f"{t.name}:{s}": shape for t in model.trained for s, shape in tensor_states(t, phase).items()}


def copied(phase: Phase) -> tuple[str, ...]:
    """Names of the states that are a copy of their weight at step 0."""
    return (*phase.optimizer.begins_as_weight, TRAINED)


def state_numbers(model: ModelPlan, phase: Phase) -> int:
    """How many numbers the states have together."""
    return sum(prod(shape) for shape in state_shapes(model, phase).values())


class Updates:
    """The groups of a phase, and what the graph of its update reads at each step."""

    def __init__(self, model: ModelPlan, phase: Phase) -> None:
        self.phase = phase
        own = {t.name: group_of(t.name, model, phase) for t in model.trained}
        self.groups = tuple(dict.fromkeys((UpdateGroup(), *own.values())))
        """Those that there are; first the one of tensors that nothing sets apart, also where there is none."""
        self._number = {name: self.groups.index(group) for name, group in own.items()}
        self._width = len(phase.optimizer.scalars(1.0, 1)) + bool(phase.unfreeze)
        self.count = len(self.groups) * self._width + (phase.ema is not None)
        """How many numbers a step reads."""

    def address(self) -> list[object]:
        """What of the update's graph hangs on the phase beside its optimizer; nothing where nothing does."""
        phase = self.phase
        apart = [self._number, bool(phase.unfreeze)] if len(self.groups) > 1 or phase.unfreeze else []
        return [*apart, *(["ema"] if phase.ema is not None else [])]

    def group(self, name: str) -> UpdateGroup:
        """The group of a tensor that is trained."""
        return self.groups[self._number[name]]

    def place(self, name: str) -> slice:
        """Where the numbers of a tensor's group stand among those of a step."""
        first = self._number[name] * self._width
        return slice(first, first + self._width)

    def numbers(self, factor: float, step: int, steps: int, update: int | None = None) -> tuple[float, ...]:
        """What the graph reads at `step` (from 1) of `steps`, where the schedule says `factor`; the learning rate of
        the first group first. It is the `update` (from 1) of the optimizer's state, where that is another number.

        Of each group the optimizer's numbers, as if the phase began with it, and whether it trains where one of them
        waits (0 or 1); then the share of the newest weights in their average.
        """
        found: list[float] = []
        update = step if update is None else update
        for group in self.groups:
            own = step - group.begins(steps)
            seen = min(own, update) if self.phase.unfreeze else update
            found += self.phase.optimizer.scalars(factor * group.multiplier * (own > 0), max(1, seen))
            if self.phase.unfreeze:
                found.append(float(own > 0))
        if self.phase.ema is not None:
            found.append(1 - ema_decay(self.phase.ema, update))
        return tuple(found)


def ema_decay(decay: float, step: int) -> float:
    """How much of an average is kept at `step` (from 1): at most (1 + step) / (10 + step), so that the start of a phase
    does not stay in it for long (TensorFlow, ExponentialMovingAverage with `num_updates`)."""
    return min(decay, (1 + step) / (10 + step))


def group_of(name: str, model: ModelPlan, phase: Phase) -> UpdateGroup:
    """The group of a tensor: all patterns that its name matches count, and the latest start."""
    factor = phase.layerwise_lr_decay ** depth(name, model) if phase.layerwise_lr_decay != 1 else 1.0
    for pattern, multiplier in sorted(phase.lr_multipliers.items()):
        factor *= multiplier if fnmatchcase(name, pattern) else 1.0
    starts = (share.fraction for pattern, share in phase.unfreeze.items() if fnmatchcase(name, pattern))
    return UpdateGroup(factor, max(starts, default=0.0))


def depth(name: str, model: ModelPlan) -> int:
    """How many layers a tensor lies below the heads: 0 for heads and final norms, 1 for the last layer of a stack, one
    more than there are layers for embeddings (Clark et al. 2020, arXiv:2003.10555, section 3.1)."""
    for stack in model.stacks:
        own = f"{walk.prefix(stack)}layers."
        if name.startswith(own) and (number := re.match(r"\d+", name[len(own) :])):
            return len(stack.order) - int(number[0])
    above = (f"{walk.prefix(stack)}final_norm." for stack in model.stacks)
    heads = (f"{walk.head_path(head)}." for head in model.heads)
    if name.startswith((*above, *heads)):
        return 0
    return 1 + max(len(stack.order) for stack in model.stacks)
