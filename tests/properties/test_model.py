"""The built network is the one that the Plan describes: its tensors, its logits, its loss and its gradients."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    CONTEXT,
    EPS,
    FEW,
    NETWORKS,
    PAIRS,
    ROWS,
    VOCAB,
    Inputs,
    apart,
    drawn_tokens,
    drawn_weights,
    memory,
    plan_of,
)

from llmspec.backends.backend import backend
from llmspec.compiler.masks import Relation
from llmspec.compiler.plan import ModelPlan, TensorPlan
from llmspec.model.completeness import assert_complete
from llmspec.model.steps import Steps
from llmspec.model.transformer import Transformer
from llmspec.model.weights import drawn
from llmspec.parts import attentions, inits, mlps, norms, positions, rope_scalings
from llmspec.parts.base import Init
from llmspec.parts.residual import FORMS

seeds = st.integers(0, 2**32 - 1)
few_draws = settings(deadline=None, max_examples=4)

SUMMED = 400
"""Products added up on the way to a logit, about: what rounding errors of a float32 network grow with."""


def cut(seed: int) -> np.ndarray:
    """Documents of each row: two or three that follow one another, of drawn lengths."""
    rng = np.random.default_rng([seed, 5])
    return np.stack(
        [np.searchsorted(np.sort(rng.integers(0, CONTEXT + 1, 2)), np.arange(CONTEXT), "right") for _ in range(ROWS)]
    ).astype(np.int32)


def test_the_networks_hold_every_entry() -> None:
    for names in (PAIRS, FEW):
        shown = set().union(*map(networks.traits, names))
        assert {*positions.TABLE, *attentions.TABLE, *mlps.TABLE} <= shown
        assert {*norms.TABLE, *FORMS} <= shown
        assert {"tied True", "tied False", "bias True", "bias False"} <= shown


# -- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_the_network_reads_exactly_the_tensor_table(name: str) -> None:
    assert_complete(Transformer(NETWORKS[name].model))


@pytest.mark.parametrize("name", FEW)
def test_a_tensor_too_few_or_too_many_is_noticed(name: str) -> None:
    plan = NETWORKS[name].model
    for i, gone in enumerate(plan.tensors):
        if gone.name.startswith("layers.0."):
            continue  # as layers.1
        fewer = plan.model_copy(update={"tensors": plan.tensors[:i] + plan.tensors[i + 1 :]})
        with pytest.raises((AssertionError, KeyError), match=gone.name):
            assert_complete(Transformer(fewer))
    extra = TensorPlan(name="layers.0.mlp.spare", shape=(2, 2), role="matrix", init=Init())
    with pytest.raises(AssertionError, match="spare"):
        assert_complete(Transformer(plan.model_copy(update={"tensors": (*plan.tensors, extra)})))


@pytest.mark.parametrize("name", PAIRS)
def test_the_number_of_weights(name: str) -> None:
    plan = NETWORKS[name].model
    assert plan.parameters == reference.parameters(plan) == sum(w.size for w in drawn(plan, 0).values())


@pytest.mark.parametrize("kind", inits.TABLE)
def test_weights_start_as_planned(kind: str) -> None:
    plan = plan_of({"d_model": 64, "layers": 8, "init": {"kind": kind}, "mlp": {"kind": "gelu", "bias": True}}).model
    first, again, other = drawn(plan, 3), drawn(plan, 3), drawn(plan, 4)
    for t in plan.tensors:
        values = first[t.name]
        assert values.shape == t.shape and values.dtype == np.float32 and (values == again[t.name]).all()
        if t.role in ("norm", "bias"):
            assert (values == (1 if t.role == "norm" else 0)).all()
            continue
        assert (values != other[t.name]).any()
        # Four standard errors of a standard deviation and of a mean.
        assert abs(values.std() / t.init.std - 1) < 4 / np.sqrt(2 * t.count)
        assert abs(values.mean()) < 4 * t.init.std / np.sqrt(t.count)
    std = {t.name.partition(".attention.")[2]: t.init.std for t in plan.tensors if "layers.0.attention." in t.name}
    assert std["o_proj.weight"] == pytest.approx(std["q_proj.weight"] / 4)  # √(2·8 layers)
    assert (first["layers.0.attention.q_proj.weight"] != first["layers.1.attention.q_proj.weight"]).any()


# -- logits and loss ------------------------------------------------------------------------------------------------


def check_logits(name: str, seed: int, plain: bool) -> None:
    plan, weights, tokens = NETWORKS[name].model, drawn_weights(NETWORKS[name].model, seed), drawn_tokens(seed)
    for documents in (None, cut(seed)):
        made = networks.logits(name, weights, tokens, documents, plain=plain)
        assert made.shape == (ROWS, CONTEXT, VOCAB) and made.dtype == np.float32
        assert apart(made, reference.logits(plan, weights, tokens, documents)) < SUMMED * EPS


@pytest.mark.parametrize("name", PAIRS)
@few_draws
@given(seeds)
def test_logits_on_the_cpu(name: str, seed: int) -> None:
    check_logits(name, seed, plain=False)


@pytest.mark.parametrize("name", FEW)
@few_draws
@given(seeds)
def test_logits_in_plain_operations(name: str, seed: int) -> None:
    check_logits(name, seed, plain=True)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 7, 8, 12])
def test_alibi_slopes_for_any_number_of_heads(heads: int) -> None:
    from llmspec.parts.positions.alibi import slopes

    assert slopes(heads) == pytest.approx(reference.slopes(heads)) and len(set(slopes(heads))) == heads


@pytest.mark.parametrize("kind", rope_scalings.TABLE)
@pytest.mark.parametrize(("width", "length"), [(4, 3), (10, 40), (64, 300)])
def test_frequencies_of_every_scaling(kind: str, width: int, length: int) -> None:
    fields = rope_scalings.TABLE[kind].model_fields
    given = {k: v for k, v in (("factor", 3.0), ("original_context", 30)) if k in fields}
    for theta in (100.0, 5e5):
        part = rope_scalings.TABLE[kind].model_validate(given)
        expected = reference.FREQUENCIES[kind](part, theta, width, length)
        assert part.frequencies(theta, width, length) == pytest.approx(np.array(expected), rel=1e-12)
        assert part.magnitude() == pytest.approx(reference.magnitude(part))


# -- gradients ------------------------------------------------------------------------------------------------------


def drawn_batch(seed: int) -> networks.Arrays:
    rng = np.random.default_rng([seed, 7])
    shares = rng.random((ROWS, CONTEXT)) * (rng.random((ROWS, CONTEXT)) < 0.8)
    return {
        "tokens": drawn_tokens(seed),
        "targets": drawn_tokens(seed + 1),
        "documents": cut(seed),
        "loss_weights": (shares / shares.sum()).astype(np.float32),
    }


def slope(
    plan: ModelPlan,
    weights: networks.Arrays,
    batch: networks.Arrays,
    smoothing: float,
    tensor: str,
    direction: np.ndarray,
    step: float = 1e-5,
) -> float:
    """Finite difference of the float64 reference's loss along a direction of one tensor."""
    w = reference.double(weights)
    at = lambda t: reference.loss(plan, {**w, tensor: w[tensor] + t * direction}, batch, smoothing)
    return (at(step) - at(-step)) / (2 * step)


@pytest.mark.parametrize("name", FEW)
def test_gradients_are_the_slopes_of_the_loss(name: str) -> None:
    """The seed is fixed: a rectifier's kink within a step of a drawn point would have no slope."""
    plan, batch, smoothing = NETWORKS[name].model, drawn_batch(3), networks.smoothing(name)
    weights = drawn_weights(plan, 3)
    loss, made = networks.gradients(name, weights, batch, double=True)
    assert loss == pytest.approx(reference.loss(plan, weights, batch, smoothing), rel=1e-6)
    whole = np.sqrt(sum((g**2).sum() for g in made.values()))
    for tensor, g in made.items():
        assert g.dtype == np.float64 and np.abs(g).max() > 0, tensor
        for seed in range(2):
            direction = np.random.default_rng([seed, 8]).standard_normal(g.shape)
            direction /= np.linalg.norm(direction)
            expected = slope(plan, weights, batch, smoothing, tensor, direction)
            # The constant tables of positions are float32 in the graph: that is what the tolerance is for.
            assert (g * direction).sum() == pytest.approx(expected, rel=1e-5, abs=1e-7 * whole), tensor


@pytest.mark.parametrize("name", FEW)
@few_draws
@given(seeds)
def test_gradients_on_the_cpu_equal_the_plain_ones_in_float64(name: str, seed: int) -> None:
    weights, batch = drawn_weights(NETWORKS[name].model, seed), drawn_batch(seed)
    loss, made = networks.gradients(name, weights, batch)
    exact_loss, exact = networks.gradients(name, weights, batch, double=True)
    assert loss == pytest.approx(exact_loss, rel=SUMMED * EPS)
    whole = np.sqrt(sum((g**2).sum() for g in exact.values()))
    for tensor, g in made.items():
        # What flows through a key's bias cancels exactly, so its error is that of the whole.
        room = 2 * SUMMED * EPS * (np.linalg.norm(exact[tensor]) + whole / 8)
        assert np.linalg.norm(g - exact[tensor]) < room, tensor


def test_dropout_acts_in_training_only() -> None:
    """Evaluation takes no key; in training the key decides what is dropped, and nothing else does."""
    model = {"position": {"kind": "learned"}, "attention": {"heads": 2}, "mlp": {"kind": "relu"}}
    batch = {k: v for k, v in drawn_batch(1).items() if k != "documents"} | {
        "ranges:causal": Relation().ranges(CONTEXT)
    }
    found = {}
    for rate in (0.0, 0.5):
        plan = plan_of({**model, "dropout": rate})
        steps, handles = Steps(plan.phases[0], backend("CPU")), backend("CPU").inputs
        weights = Inputs().put(drawn_weights(plan.model, 1))
        data, more, sums = Inputs().put(batch), Inputs(), Inputs().put({n: memory(t) for n, t in weights.items()})
        found[rate] = float(memory(steps.evaluate(weights, {}, {**data, **handles})[0]))
    assert found[0.0] == found[0.5]

    def train(*key: int) -> tuple[float, ...]:
        keyed = more.put({"key": np.array(key, np.uint32), "keep": np.zeros(1, np.float32)})
        loss = float(memory(steps.accumulate(weights, sums, {}, {**data, **keyed, **handles})[0]))
        return (loss, *(float(memory(t).sum()) for t in sums.values()))

    first, other = train(1, 2), train(1, 3)
    assert first == train(1, 2) and first[0] != other[0] and found[0.5] not in (first[0], other[0])
    losses = [train(7, n)[0] for n in range(20)]
    assert abs(np.mean(losses) - found[0.0]) < 5 * np.std(losses)
