"""Dropout at each site: what its definition says, and in training alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import networks
import numpy as np
import pytest
import reference
from networks import CONTEXT, ROWS, Inputs, drawn_tokens, drawn_weights, memory, plan_of
from reference_dropout import attention_key, of_attention, of_numbers
from tinygrad import Tensor

from llmspec.backends.backend import backend
from llmspec.backends.plain.ops import Ops
from llmspec.compiler.dropped import dropped
from llmspec.compiler.masks import Relation
from llmspec.compiler.plan import ModelPlan
from llmspec.model.steps import Steps
from llmspec.parts.dropout import Dropout, Site, by_site
from llmspec.parts.ops import Scores

KEY = np.array([0x12345678, 0x9ABCDEF0], np.uint32)
SHARES = {"embedding": 0.1, "attention": 0.4, "residual": 0.2, "mlp": 0.3}
MODELS: dict[str, dict[str, Any]] = {
    "gated": {
        "position": {"kind": "rope"},
        "attention": {"kind": "grouped_query", "heads": 4, "kv_heads": 2, "softcap": 5.0, "sinks": True},
        "mlp": {"kind": "swiglu", "d_ff": 24},
    },
    "parallel": {
        "position": {"kind": "t5_relative"},
        "attention": {"kind": "multi_head", "heads": 2},
        "mlp": {"kind": "gelu", "d_ff": 24},
        "norm": {"kind": "layernorm"},
        "residual": "parallel",
    },
}


@pytest.fixture(autouse=True)
def nothing_dropped_afterwards() -> Iterator[None]:
    yield
    reference.DROPPING.drop(KEY, {})


def batch() -> dict[str, np.ndarray]:
    return {
        "tokens": drawn_tokens(3),
        "targets": drawn_tokens(4),
        "loss_weights": np.full((ROWS, CONTEXT), 1 / (ROWS * CONTEXT), np.float32),
    }


def pass_of(model: dict[str, Any], plain: bool, weights: networks.Arrays) -> tuple[ModelPlan, float, networks.Arrays]:
    """The loss of a pass with dropout, and its gradients by name."""
    plan = plan_of(model, micro_batch_size=ROWS)
    steps, low = Steps(plan.phases[0], backend("CPU", plain)), backend("CPU", plain)
    data = {**batch(), "ranges:causal": Relation().ranges(CONTEXT), "key": KEY}
    held, tables = Inputs().put(weights), Inputs().put(networks.Transformer(plan.model).tables())
    (loss, *_), slopes = steps.gradients(held, tables, {**Inputs().put(data), **low.inputs})
    made = {n: memory((g + 0).contiguous().realize()).copy() for n, g in zip(steps.trained, slopes, strict=True)}
    return plan.model, float(memory(loss)), made


@pytest.mark.parametrize("plain", [False, pytest.param(True, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", MODELS)
def test_a_pass_is_the_reference_with_the_same_bits(name: str, plain: bool) -> None:
    """The loss, and its slope along drawn directions of every tensor."""
    model = {**MODELS[name], "layers": 1, "dropout": SHARES}
    weights = drawn_weights(plan_of(model).model, 5)
    plan, loss, made = pass_of(model, plain, weights)
    reference.DROPPING.drop(KEY, SHARES)
    given, w = batch(), reference.double(weights)
    assert loss == pytest.approx(reference.loss(plan, weights, given, 0.0), rel=1e-6)
    whole = float(np.sqrt(sum((g**2).sum() for g in made.values())))
    for tensor, g in made.items():
        direction = np.random.default_rng(8).standard_normal(g.shape)
        direction /= np.linalg.norm(direction)
        at = lambda t, n=tensor, v=direction: reference.loss(plan, {**w, n: w[n] + t * v}, given, 0.0)
        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        assert (g * direction).sum() == pytest.approx(slope, rel=1e-4, abs=2e-6 * whole), tensor


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_means_stay_and_each_site_has_bits_of_its_own(share: float) -> None:
    """Of attention, whose heads' outputs for values of 1 are the sum of what is left of the weights."""
    rows, queries, heads, keys, width = 4, 64, 3, 65, 4
    qkv = np.ones((rows, queries, heads, width), np.float32)
    kv = np.ones((rows, keys, heads, width), np.float32)
    ranges = np.broadcast_to(np.array([0, keys], np.int32), (1, queries, 2)).copy()
    low = backend("CPU")
    t = Inputs().put({"q": qkv, "k": kv, "r": ranges, "key": KEY})
    ops = low.ops(low.inputs, t["key"], Dropout(attention=share))
    found = []
    for _ in range(2):
        y = ops.attention(t["q"], t["k"], t["k"], t["r"], Scores()).contiguous()
        Tensor.realize(y)
        found.append(memory(y).copy()[..., 0])
    room = 5 * np.sqrt(share / (1 - share) / found[0].size / keys)
    assert abs(found[0].mean() - 1) < room and abs(found[1].mean() - 1) < room
    assert abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.15
    again = low.ops(low.inputs, t["key"], Dropout(attention=share))
    y = again.attention(t["q"], t["k"], t["k"], t["r"], Scores()).contiguous()
    assert (memory(y.realize())[..., 0] == found[0]).all()


def test_plain_weights_are_dropped_as_the_definition_says() -> None:
    t = Inputs().put({"key": KEY, "x": np.ones((2, 3, 5, 7), np.float32)})
    ops = Ops(t["key"], Dropout(attention=0.3, mlp=0.2))
    weights, hidden = ops._attention_dropout(t["x"]).contiguous(), ops.dropout(t["x"], "mlp").contiguous()
    Tensor.realize(weights, hidden)
    np.testing.assert_allclose(memory(weights), of_attention(attention_key(KEY, 1), (2, 3, 5, 7), 0.3), rtol=1e-6)
    np.testing.assert_allclose(memory(hidden), of_numbers(KEY, 2, (2, 3, 5, 7), 0.2), rtol=1e-6)


@pytest.mark.parametrize("site", get_args(Site))
def test_each_site_acts_in_training_alone(site: str) -> None:
    model = {**MODELS["gated"], "layers": 1}
    start, found = drawn_weights(plan_of(model).model, 1), {}
    for share in (0.0, 0.5):
        plan = plan_of({**model, "dropout": {site: share}}, micro_batch_size=ROWS)
        steps, low = Steps(plan.phases[0], backend("CPU")), backend("CPU")
        inputs = Inputs().put({**batch(), "ranges:causal": Relation().ranges(CONTEXT)})
        tables = Inputs().put(networks.Transformer(plan.model).tables())
        found[share] = float(memory(steps.evaluate(Inputs().put(start), tables, {**inputs, **low.inputs})[0]))
    assert found[0.0] == found[0.5]
    _, trained, _ = pass_of({**model, "dropout": {site: 0.5}}, False, start)
    assert trained != found[0.5]


def test_one_number_is_the_embedding_and_the_branches() -> None:
    model = {**MODELS["gated"], "layers": 2}
    short, long = (plan_of({**model, "dropout": d}).model for d in (0.2, {"embedding": 0.2, "residual": 0.2}))
    assert short == long and short.dropout == 0.2 and dropped(short) == (1 + 2 * 2) * 16
    assert plan_of({**model, "dropout": {"mlp": 0.0}}).model.dropout == 0.0
    sites: Mapping[str, float] = by_site(plan_of({**model, "dropout": SHARES}).model.dropout).named
    assert sites == SHARES
