"""Tensors that learn apart from the others of their phase: at another rate, or from a later step on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmspec.compiler.plan import PhasePlan, TensorPlan
from llmspec.compiler.updates import Updates


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of one rate that begin to train together."""

    tensors: tuple[str, ...]
    """Their names; `layers.0.*` where all of a layer that are trained belong to it."""
    parameters: int
    multiplier: float
    """What the learning rate of the phase is multiplied with."""
    peak_lr: float
    waits: int | None
    """Steps before it trains; None while the length of the phase is not known."""
    waits_share: float
    """The same as a share of the phase."""


def tensor_groups(planned: PhasePlan) -> tuple[TensorGroup, ...]:
    """Every group of a phase, largest rate first; nothing where all tensors learn alike."""
    updates, trained = Updates(planned.model, planned.phase), planned.model.trained
    if len(updates.groups) == 1:
        return ()
    found = []
    for group in sorted(updates.groups, key=lambda g: (g.start, -g.multiplier)):
        own = [t for t in trained if updates.group(t.name) == group]
        if own:
            waits = None if planned.steps is None else group.begins(planned.steps)
            names, count = shortened(own, trained), sum(t.count for t in own)
            rate = planned.phase.optimizer.lr * group.multiplier
            found.append(TensorGroup(names, count, group.multiplier, rate, waits, group.start))
    return tuple(found)


def shortened(own: Sequence[TensorPlan], trained: Sequence[TensorPlan]) -> tuple[str, ...]:
    """Names of tensors; one for all of a layer, of a head or of an embedding, where all that are trained are there."""

    def whole(name: str) -> str:
        layer = re.match(r"(.*?layers\.\d+\.)", name)
        return layer[1] if layer else name.partition(".")[0] + "."

    inside, found = {t.name for t in own}, dict[str, None]()
    for t in own:
        start = whole(t.name)
        alike = [o.name for o in trained if whole(o.name) == start]
        found[f"{start}*" if len(alike) > 1 and inside.issuperset(alike) else t.name] = None
    return tuple(found)
