"""Rows of prompts with their answers, made by hand, for tests of objectives of log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Batch, Labels, blank
from llmspec.spec.schema import Spec

CONTEXT, VOCAB = 64, 24
TEXTS = [
    [([12, 13, 14], [15, 16]), ([12, 13, 14], [17, 18, 19]), ([20], [15]), ([20], [21, 22, 12, 19])],
    [([13, 12], [21, 14]), ([13, 12], [23, 14, 12])],
]
"""By row: (prompt, answer) of each text, chosen and rejected in turn."""
REFERENCE = np.array([[-5.0, -9.5, -2.5, -14.0], [-6.5, -8.0, 0.0, 0.0]], np.float32)
"""What a reference holds of them."""


def plan_of(objective: dict[str, Any], kind: str = "dpo", vocab: int = VOCAB, **phase: Any) -> Plan:
    """One phase of a small decoder; none of its data is read."""
    spec = {
        "name": "answers",
        "device": "CPU",
        "model": {
            "context": CONTEXT,
            "d_model": 16,
            "layers": 1,
            "position": {"kind": "rope"},
            "attention": {"heads": 2},
            "mlp": {"kind": "swiglu", "d_ff": 24},
        },
        "tokenizer": {"kind": "char", "vocab": vocab},
        "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
        "phases": {
            "p": {
                "kind": "pretrain",
                "mixture": {"a": "100%"},
                "budget": "4 steps",
                "micro_batch_size": 2,
                "max_grad_norm": None,
                "document_mask": True,
                "optimizer": {"kind": "sgd", "lr": 1.0},
                **phase,
            }
        },
    }
    plan = compile_spec(Spec.model_validate_json(json.dumps(spec)))
    planned = plan.phases[0]
    from llmspec.parts.objectives import TABLE

    asked = planned.phase.model_copy(update={"objective": TABLE[kind](**objective)})
    return plan.model_copy(update={"phases": (planned.model_copy(update={"phase": asked}),)})


def batch_of(texts: list[list[tuple[list[int], list[int]]]], places: int, good: Any = None) -> Batch:
    """The texts of each row one after another; all but their last tokens are read, and answers are what counts."""
    rows = len(texts)
    shape = (rows, places)
    sides = np.broadcast_to(np.arange(places) % 2, shape) if good is None else np.array(good)
    labels = Labels(sides.astype(np.int32), np.zeros(shape, np.float32))
    batch = blank(rows, CONTEXT, 0)._replace(labels=labels)
    for row, found in enumerate(texts):
        at = 0
        for k, (prompt, answer) in enumerate(found):
            ids = [*prompt, *answer]
            n = len(ids) - 1
            batch.tokens[row, at : at + n], batch.targets[row, at : at + n] = ids[:-1], ids[1:]
            batch.weights[row, at + len(prompt) - 1 : at + n] = 1
            batch.documents[row, at : at + n], batch.positions[row, at : at + n] = k, np.arange(n)
            labels.weights[row, k] = 1
            at += n
        batch.filled[row] = at
        batch.documents[row, at:] = len(found)
        batch.positions[row, at:] = np.arange(CONTEXT - at)
    return batch


def made(plan: Plan, batch: Batch) -> dict[str, np.ndarray]:
    """What the graph reads of it."""
    planned = plan.phases[0]
    return BatchInputs(planned.model, planned.phase, plan.tokenizer.meanings(), (1,))(batch, 0)
