"""What a plan's phases hold at their peak, item by item, beside what the device has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmspec.compiler.fit import limit_of
from llmspec.compiler.memory import FLOAT, decoding_bytes
from llmspec.compiler.plan import Plan

SAMPLING = "sampling"
"""The name of what happens after all phases: one text is drawn from the trained model."""
WORDS = {
    "weights": "weights",
    "optimizer": "optimizer's state",
    "gradients": "gradients",
    "sums": "gradients, summed",
    "activations": "activations",
    "logits": "logits",
    "evaluation": "validation",
    "decoding": "keys and values",
    "batch": "inputs and tables",
}
"""The items of a MemoryPlan in words, in the order in which they are shown."""


@dataclass(frozen=True)
class MemoryReport:
    """One phase's peak on one device. Unit: bytes."""

    phase: str
    items: tuple[tuple[str, int], ...]
    """What is held at the peak: (name, bytes), all of them but zeros."""
    peak: int
    moment: str
    """When a step holds most."""
    exact: int | None
    """The peak as the scheduled graphs have it, where they were asked."""


def memory_reports(plan: Plan, exact: Mapping[str, Mapping[str, int]] | None = None) -> tuple[MemoryReport, ...]:
    """Every phase, and sampling after them; `exact` is what llmspec.model.graph_memory found."""
    found = []
    for planned in plan.phases:
        if (memory := planned.memory) is None:
            continue
        sizes = memory.items
        items = tuple((WORDS[key], sizes[key]) for key in WORDS if key in sizes)
        asked = sum(exact[planned.name].values()) + memory.decoding if exact and planned.name in exact else None
        found.append(MemoryReport(planned.name, items, memory.peak, memory.moment, asked))
    weights, cache = FLOAT * plan.model.parameters, decoding_bytes(plan.model, 1)
    kept = ((WORDS["weights"], weights), (WORDS["decoding"], cache))
    return (*found, MemoryReport(SAMPLING, kept, weights + cache, "when its context is full", None))


def memory_limit(plan: Plan) -> tuple[int | None, str]:
    """(bytes that the device may hold, whose word that is)."""
    return limit_of(plan.device, plan.memory_limit.amount if plan.memory_limit else None)
