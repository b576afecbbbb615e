"""Activation checkpointing: the same step bit for bit, with the memory that was planned for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import CONTEXT, ROWS, VOCAB, Arrays, drawn_weights, plan_of

from llmspec.backends.backend import backend
from llmspec.compiler.inputs import declared_inputs
from llmspec.compiler.masks import Relation
from llmspec.model.graph_memory import measure
from llmspec.training.trainer import Trainer

ROTARY: dict[str, Any] = {
    "layers": 3,
    "dropout": {"embedding": 0.1, "attention": 0.3, "residual": 0.2, "mlp": 0.2},
    "position": {"kind": "rope"},
    "attention": {"kind": "grouped_query", "heads": 4, "kv_heads": 2},
    "mlp": {"kind": "swiglu", "d_ff": 24},
}
LEARNED: dict[str, Any] = {
    "layers": 3,
    "position": {"kind": "learned"},
    "attention": {"kind": "multi_head", "heads": 2, "bias": True},
    "mlp": {"kind": "gelu", "d_ff": 24},
    "norm": {"kind": "layernorm"},
    "residual": "post",
    "heads": {"lm": {"kind": "lm", "tied": False}},
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dropout, tied": (ROTARY, {"gradient_accumulation_steps": 2}),
    "learned positions, frozen below": (LEARNED, {"freeze": ["embed_tokens.*", "position.*", "layers.0.*"]}),
    "experts": (
        {**ROTARY, "mlp": {"kind": "mixture_of_experts", "experts": 4, "top_k": 2}},
        {"micro_batch_size": 2},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_step_has_the_same_bits(name: str) -> None:
    model, phase = CASES[name]
    found = []
    for again in (False, True):
        plan = plan_of(model, **{"micro_batch_size": ROWS, "activation_checkpointing": again, **phase})
        start, planned = drawn_weights(plan.model, 3), plan.phases[0]
        trainer = Trainer(plan, planned, backend("CPU"), lambda t, start=start: start[t.name])
        sums = []
        for step in range(2):
            batches = [read(plan, 10 * step + m) for m in range(planned.phase.gradient_accumulation_steps)]
            taken = trainer.step(batches, trainer.steps.updates.numbers(1.0, step + 1, 4), step)
            sums.append((taken.sums, taken.norm))
        found.append((sums, trainer.weight_arrays(), trainer.state_arrays()))
    (sums, weights, state), (sums_again, weights_again, state_again) = found
    assert sums == sums_again
    assert any(not np.array_equal(weights[n], start[n]) for n in weights)
    assert [n for n in weights if not np.array_equal(weights[n], weights_again[n])] == []
    assert [n for n in state if not np.array_equal(state[n], state_again[n])] == []


def read(plan: Any, seed: int) -> Arrays:
    """A batch of random tokens, as the phase declares it."""
    rng, found = np.random.default_rng(seed), {}
    for name, spec in declared_inputs(plan.phases[0].model, plan.phases[0].phase).items():
        if name in ("tokens", "targets"):
            found[name] = rng.integers(0, VOCAB, spec.shape).astype(np.int32)
        elif name == "loss_weights":
            found[name] = np.ones(spec.shape, np.float32)
        elif name == "filled":
            found[name] = np.ones(spec.shape, np.int32)
        else:
            assert name.startswith("ranges:")
            found[name] = Relation().ranges(CONTEXT)
    return found


def test_the_graphs_hold_less_and_what_was_planned() -> None:
    wide = {**LEARNED, "layers": 6, "context": 64, "d_model": 64, "mlp": {"kind": "gelu", "d_ff": 256}}
    kept, again = (plan_of(wide, micro_batch_size=8, activation_checkpointing=on) for on in (False, True))
    steps = []
    for plan in (kept, again):
        memory, found = plan.phases[0].memory, measure(plan, plan.phases[0], backend("CPU"))
        assert memory is not None
        assert memory.peak - memory.decoding == pytest.approx(sum(found.values()), rel=0.1)
        steps.append(found["training step"])
    assert steps[1] < 0.6 * steps[0]
