"""Weight decay by names: with gradients of 0 a step shrinks what decays, and leaves the rest bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import Inputs, drawn_weights, memory, plan_of, states_at_first

from llmspec.backends.backend import backend
from llmspec.model.steps import Steps
from llmspec.parts.optimizers import TABLE

MODEL: dict[str, Any] = {"layers": 1, "attention": {"heads": 2}, "mlp": {"kind": "gelu", "d_ff": 16}}
LEFT = ["embed_tokens.*", "layers.*.q_proj.*"]
QUICK = ("adamw", "muon", "lion")


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.nightly) for k in TABLE])
def test_what_is_named_never_decays(kind: str) -> None:
    given: dict[str, Any] = {"kind": kind, "lr": 0.01, "weight_decay": 0.5, "no_decay": LEFT}
    given |= {"adamw": {"lr": 0.01, "weight_decay": 0.5}} if kind == "muon" else {}
    plan = plan_of(MODEL, optimizer=given, max_grad_norm=None, schedule={"kind": "constant"})
    start, steps, low = drawn_weights(plan.model, 1), Steps(plan.phases[0], backend("CPU")), backend("CPU")
    weights, state, sums = Inputs().put(start), Inputs().put(states_at_first(plan, start)), Inputs()
    sums.put({n: np.zeros_like(w) for n, w in start.items()})
    scalars = np.array(steps.updates.numbers(1.0, 1, 4), np.float32)
    memory(steps.apply(weights, state, sums, {**Inputs().put({"scalars": scalars}), **low.inputs}))
    decayed = set()
    for t in plan.model.trained:
        after = memory(weights[t.name])
        if not np.array_equal(after, start[t.name]):
            assert np.abs(after).sum() < np.abs(start[t.name]).sum(), t.name
            decayed.add(t.name)
    named = {n for n in start if n.startswith("embed_tokens.") or ".q_proj." in n}
    assert named and decayed == {t.name for t in plan.model.trained if t.role not in ("norm", "bias")} - named
