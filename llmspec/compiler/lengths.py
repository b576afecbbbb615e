"""A phase whose rows grow, length by length: at each one it is a phase of a model with that context, over more rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem
from llmspec.parts.phases import Phase
from llmspec.parts.phases.lengths import context_problems
from llmspec.parts.phases.plain import PlainText


class Stage(NamedTuple):
    """Steps of one length."""

    model: ModelPlan
    """With the length as its context; its tensors are those of the whole context."""
    phase: Phase
    """With as many rows a pass as hold the tokens of a whole one."""
    steps: int
    passes: float
    """Of a step, on average."""


def shortened(model: ModelPlan, phase: Phase, length: int) -> tuple[ModelPlan, Phase]:
    """Model and phase as they are at a length, which divides the context: what graphs read, and what a pass costs."""
    if length == model.context:
        return model, phase
    rows = phase.micro_batch_size * (model.context // length)
    return model.model_copy(update={"context": length}), phase.model_copy(update={"micro_batch_size": rows})


def stages(model: ModelPlan, phase: Phase, steps: int) -> Iterator[Stage]:
    """All steps of a phase of so many, by their length."""
    lengths = phase.row_lengths(model.context)
    if len(lengths.lengths) == 1:
        yield Stage(model, phase, steps, phase.batches.mean(steps))
        return
    for length, begin, end in lengths.stages(steps):
        passes = phase.batches.before(end, steps) - phase.batches.before(begin, steps)
        yield Stage(*shortened(model, phase, length), end - begin, passes / (end - begin))


def row_problems(phase: Phase, model: ModelPlan) -> Iterator[Problem]:
    """What is wrong with rows that grow to the context of a model."""
    if isinstance(phase, PlainText):
        yield from context_problems(phase.sequence_length, model.context, model.encoder is not None)
