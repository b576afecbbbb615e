"""Refuses a plan that its device cannot hold, with the cheapest changes that make it fit: each is planned anew."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isqrt
from typing import NamedTuple, Protocol

from llmspec.compiler import network
from llmspec.compiler.draft import Draft
from llmspec.compiler.memory import MemoryModel, device_memory, memory_model, memory_of
from llmspec.compiler.memory_plan import MemoryPlan
from llmspec.compiler.phase_model import phase_models
from llmspec.compiler.plan import ModelPlan, PhasePlan, Plan
from llmspec.core.problems import Problem
from llmspec.core.units import size
from llmspec.parts.phases import Phase

SHORTEST = 32
"""Contexts shorter than this are not proposed. Unit: tokens."""


class Change(NamedTuple):
    """A change of the spec in words, and what the phase would hold at its peak then (bytes)."""

    words: str
    peak: int


def limit_of(device: str, written: int | None) -> tuple[int | None, str]:
    """(bytes that a device may hold or None where nobody knows, whose word that is)."""
    if written is not None:
        return written, "the spec's memory_limit"
    return device_memory(device), "what this machine has"


def fit_memory(draft: Draft) -> Draft:
    """One problem for each phase that would hold more than the device has."""
    asked = draft.sections.memory_limit
    limit, whose = limit_of(draft.device or "", asked.amount if asked else None)
    if limit is None:
        return draft
    return draft.with_problems(
        refusal(draft, p, p.memory, limit, whose)
        for p in draft.planned
        if p.memory is not None and p.memory.peak > limit
    )


def refusal(draft: Draft, planned: PhasePlan, memory: MemoryPlan, limit: int, whose: str) -> Problem:
    """What does not fit, and what would."""
    name, changes = planned.name, list(fitting(draft, planned, limit))
    largest = ", ".join(f"{item} {size(amount)}" for item, amount in list(memory.items.items())[:3])
    hint = "; or ".join(f"{c.words} ({size(c.peak)})" for c in changes)
    return Problem(
        f"{name} would hold {size(memory.peak)} at its peak ({largest}), and {size(limit)} is {whose}",
        ("phases", name, "micro_batch_size"),
        hint or "a model this large needs a device with more memory: write that as `memory_limit:`",
        "the run would run out of memory in its first step",
    )


class PeakOf(Protocol):
    """What a phase would hold at its peak with other settings, the models beside it included."""

    def __call__(self, model: ModelPlan, phase: Phase, rounded: MemoryModel = ...) -> int: ...


def fitting(draft: Draft, planned: PhasePlan, limit: int) -> Iterator[Change]:
    """The smallest change of each sort that fits, the one that changes least about the result first."""
    model, phase, name = planned.model, planned.phase, planned.name
    held = memory_model(draft.device, draft.sections.precision)

    def peak_of(model: ModelPlan, phase: Phase, rounded: MemoryModel = held) -> int:
        return memory_of(model, phase, rounded, planned.others).peak

    one = with_rows(phase, 1)
    beside = f", {written(one)}" if phase.micro_batch_size > 1 else ""
    found = [
        *fewer_rows(model, phase, peak_of, limit),
        *activations_again(model, phase, peak_of, limit),
        *rounded_products(draft, planned, held, peak_of, limit),
        *shorter_context(draft, name, phase, peak_of, limit, ""),
    ]
    if beside and peak_of(model, one) > limit:
        found += shorter_context(draft, name, one, peak_of, limit, beside)
    yield from found or fewer_layers(draft, name, one, peak_of, limit, beside)


def fewer_rows(model: ModelPlan, phase: Phase, peak_of: PeakOf, limit: int) -> Iterator[Change]:
    """A smaller batch in more passes: the same steps, but for rounding."""

    def peak(rows: int) -> int:
        return peak_of(model, with_rows(phase, rows))

    smaller = divisors(phase.micro_batch_size)[:-1]
    # Fewer rows hold less, so the largest number that fits is found by halving.
    if fit := bisect_right(smaller, limit, key=peak):
        rows = smaller[fit - 1]
        same = "" if phase.batch_size_warmup.percent else ", which trains the same"
        yield Change(f"{written(with_rows(phase, rows))}{same}", peak(rows))


def with_rows(phase: Phase, rows: int) -> Phase:
    """The phase with `rows` sequences a pass and as many a step as before; `rows` divides its micro-batch."""
    passes = phase.gradient_accumulation_steps * phase.micro_batch_size // rows
    return phase.model_copy(update={"micro_batch_size": rows, "gradient_accumulation_steps": passes})


def written(phase: Phase) -> str:
    """The two settings that `with_rows` changes, as a spec writes them."""
    return (
        f"micro_batch_size: {phase.micro_batch_size} and "
        f"gradient_accumulation_steps: {phase.gradient_accumulation_steps}"
    )


def activations_again(model: ModelPlan, phase: Phase, peak_of: PeakOf, limit: int) -> Iterator[Change]:
    """Activations that are computed twice, with the largest smaller batch that fits where that is not enough alone."""
    if phase.activation_checkpointing:
        return
    again = phase.model_copy(update={"activation_checkpointing": True})

    def peak(rows: int) -> int:
        return peak_of(model, with_rows(again, rows))

    rows = divisors(phase.micro_batch_size)
    fit = bisect_right(rows, limit, key=peak)
    if fit and rows[fit - 1] == phase.micro_batch_size:
        yield Change(
            "activation_checkpointing: true, which trains the same and computes about a third more", peak(rows[-1])
        )
    elif fit and peak_of(model, with_rows(phase, 1)) > limit:
        less = with_rows(again, rows[fit - 1])
        yield Change(f"activation_checkpointing: true with {written(less)}", peak(rows[fit - 1]))


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def rounded_products(
    draft: Draft, planned: PhasePlan, held: MemoryModel, peak_of: PeakOf, limit: int
) -> Iterator[Change]:
    """16-bit operands of products, where the device has them and the spec leaves them open."""
    rounded = memory_model(draft.device, "bfloat16")
    if rounded == held or rounded == memory_model(
        draft.device, "float32"
    ):  # they are rounded already, or the device cannot
        return
    peak = peak_of(planned.model, planned.phase, rounded)
    if peak <= limit:
        yield Change("precision: bfloat16, which rounds the operands of matrix products", peak)


def shorter_context(
    draft: Draft, name: str, phase: Phase, peak_of: PeakOf, limit: int, beside: str
) -> Iterator[Change]:
    """The longest of half, a quarter … of the context."""
    assert draft.network is not None
    context = draft.network.context // 2
    while context >= SHORTEST:
        peak = peak_of(replanned(draft, name, context=context), phase)
        if peak <= limit:
            yield Change(f"model.context: {context}{beside}", peak)
            return
        context //= 2


def fewer_layers(draft: Draft, name: str, phase: Phase, peak_of: PeakOf, limit: int, beside: str) -> Iterator[Change]:
    """The most layers that fit, with one row a pass."""
    assert draft.network is not None

    def peak(layers: int) -> int:
        return peak_of(replanned(draft, name, layers=layers), phase)

    low, high = 0, draft.network.layers  # `low` layers fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= limit else (low, middle)
    if low:
        yield Change(f"model.layers: {low}{beside}", peak(low))


def replanned(draft: Draft, name: str, **changes: int) -> ModelPlan:
    """A phase's model with other dimensions, by the same passes."""
    model = draft.sections.model
    assert model is not None
    sections = replace(draft.sections, model=model.model_copy(update=changes))
    made = network.build_table(network.resolve_parts(replace(draft, sections=sections, problems=()))).network
    assert made is not None
    return phase_models(made, draft.sections.phases, draft.order)[0][name]


def over_limit(plan: Plan, peaks: Mapping[str, int]) -> list[Problem]:
    """Phases whose peak (bytes), found otherwise than by formula, is more than the device has."""
    limit, whose = limit_of(plan.device, plan.memory_limit.amount if plan.memory_limit else None)
    return [
        Problem(
            f"{name} would hold {size(peak)} at its peak, and {size(limit)} is {whose}",
            ("phases", name, "micro_batch_size"),
            "a smaller micro_batch_size with more gradient_accumulation_steps learns the same",
            "the run would run out of memory in its first step",
        )
        for name, peak in peaks.items()
        if limit is not None and peak > limit
    ]
