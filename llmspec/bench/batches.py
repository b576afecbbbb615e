"""Random inputs that every side reads: the same numbers for the same plan, without data or tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmspec.compiler.inputs import documents_apart
from llmspec.compiler.plan import PhasePlan, Plan

if TYPE_CHECKING:
    from llmspec.data.layout import Batch, Labels

DISTINCT = 4
"""Batches that a benchmark goes round in."""


def batch(plan: Plan, phase: PhasePlan, index: int) -> Batch:
    """One pass as a layout makes it: full blocks, all of which counts; with a document mask two documents a row, and
    where something is asked of each, an answer drawn for it."""
    import numpy as np

    from llmspec.data.layout import Pair, blank

    rows, length = phase.phase.micro_batch_size, plan.model.context
    ids = np.random.default_rng([plan.seed, index % DISTINCT]).integers(0, plan.model.vocab, (rows, length + 1))
    model = phase.model
    made = blank(rows, length, 0, None if model.encoder is None else Pair(model.encoder_context, 0))
    made.tokens[:], made.targets[:] = ids[:, :-1], ids[:, 1:]
    made.weights[:], made.filled[:] = 1, length
    if made.encoder_tokens is not None and made.encoder_filled is not None:
        draw = np.random.default_rng([plan.seed, index % DISTINCT, 1])
        made.encoder_tokens[:] = draw.integers(0, model.vocab, made.encoder_tokens.shape)
        made.encoder_filled[:] = model.encoder_context
    if phase.phase.objective.reads_whole:  # what is asked of tokens is one of the head's outputs
        made.targets[:] %= model.heads[phase.phase.objective.head].outputs(model.dims)
    if documents_apart(model, phase.phase):
        objective = phase.phase.objective
        alone = objective.documents and objective.places(length) == 1
        place, half = np.arange(length, dtype=np.int32), length if alone else length // 2
        made.documents[:] = place >= half
        made.positions[:] = np.where(place >= half, place - half, place)
    return (
        made
        if not phase.phase.objective.documents
        else made._replace(labels=_labels(phase, [plan.seed, index % DISTINCT]))
    )


def _labels(phase: PhasePlan, seed: list[int]) -> Labels | None:
    """What is asked of the first two documents of each row; of a row that holds one alone, of that. None where nothing
    is that their records say."""
    import numpy as np

    from llmspec.data.layout import Labels

    objective, model = phase.phase.objective, phase.model
    head, places = model.heads[objective.head], objective.places(model.context) or 1
    if objective.sums_tokens:  # a chosen and a rejected answer, or a bad one and a good one
        both = np.broadcast_to(np.arange(places, dtype=np.int32), (phase.phase.micro_batch_size, places))
        return Labels(both % 2, (both < 2).astype(np.float32))
    asked = objective.document_inputs(phase.phase.micro_batch_size, places, head)
    if "targets" not in asked:
        return None
    shape, kind, *_ = asked["targets"]
    below = 2 if kind.startswith("float") else head.outputs(model.dims)
    weights = np.zeros(shape[:2], np.float32)
    weights[:, :2] = 1
    return Labels(np.random.default_rng([*seed, 2]).integers(0, below, shape).astype(kind), weights)


def prompt(plan: Plan, length: int, row: int = 0) -> list[int]:
    """Random token ids, others for each row."""
    import numpy as np

    draw = np.random.default_rng([plan.seed, 1 << 20, *([row] if row else [])])
    return [int(i) for i in draw.integers(0, plan.model.vocab, length)]
