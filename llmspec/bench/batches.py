"""Random inputs that every side reads: the same numbers for the same plan, without data or tokenizer."""

from __future__ import annotations

from typing import Any

from llmspec.compiler.plan import PhasePlan, Plan

DISTINCT = 4
"""Batches that a benchmark goes round in."""


def batch(plan: Plan, phase: PhasePlan, index: int) -> dict[str, Any]:
    """One pass: tokens and targets (B, T) int32; with a document mask also documents and positions, two a row."""
    import numpy as np

    rows, length = phase.phase.micro_batch_size, plan.model.context
    ids = np.random.default_rng([plan.seed, index % DISTINCT]).integers(0, plan.model.vocab, (rows, length + 1))
    out = {"tokens": ids[:, :-1].astype(np.int32), "targets": ids[:, 1:].astype(np.int32)}
    if phase.phase.document_mask:
        place, half = np.arange(length, dtype=np.int32), length // 2
        out["documents"] = np.tile((place >= half).astype(np.int32), (rows, 1))
        out["positions"] = np.tile(np.where(place >= half, place - half, place).astype(np.int32), (rows, 1))
    return out


def prompt(plan: Plan, length: int) -> list[int]:
    """Random token ids."""
    import numpy as np

    return [int(i) for i in np.random.default_rng([plan.seed, 1 << 20]).integers(0, plan.model.vocab, length)]
