"""Rates by tensor, gradual unfreezing and averages of weights: what each tensor gets, and what a step makes of it."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from networks import CONTEXT, EPS, ROWS, Arrays, Inputs, drawn_tokens, drawn_weights, memory, plan_of, states_at_first

from llmspec.backends.backend import backend
from llmspec.compiler.masks import Relation
from llmspec.compiler.plan import Plan
from llmspec.compiler.updates import Updates, depth, ema_decay
from llmspec.core.problems import SpecError
from llmspec.explain.update_groups import tensor_groups
from llmspec.model.steps import Steps
from llmspec.model.transformer import Transformer
from llmspec.parts.objectives import TABLE as OBJECTIVES
from llmspec.training.trainer import Trainer

MODEL: dict[str, Any] = {
    "layers": 3,
    "position": {"kind": "none"},
    "attention": {"kind": "multi_head", "heads": 2},
    "mlp": {"kind": "relu", "d_ff": 8},
    "heads": {"lm": {"kind": "lm", "tied": False}},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": {"kind": "adamw", "lr": 0.02}},
    "a quarter": {"optimizer": {"kind": "adamw", "lr": 0.005}},
    "apart": {"optimizer": {"kind": "adamw", "lr": 0.02}, "lr_multipliers": {"layers.1.*": 0.5, "layers.1.mlp.*": 0.5}},
    "waiting": {"optimizer": {"kind": "adamw", "lr": 0.02}, "unfreeze": {"layers.*": "50%", "layers.0.*": "80%"}},
    "averaged": {"optimizer": {"kind": "sgd", "lr": 0.5}, "ema": 0.6},
}


@functools.cache
def made(name: str) -> tuple[Plan, Steps]:
    plan = plan_of(MODEL, budget="10 steps", schedule={"kind": "constant"}, **SETTINGS[name])
    return plan, Steps(plan.phases[0], backend("CPU"))


def after(name: str, steps: range, start: Arrays, state: Arrays | None = None) -> tuple[Arrays, Arrays]:
    """Weights and states after some steps (from 1) on gradients that hang on the step alone."""
    plan, graphs = made(name)
    weights, sums, common = Inputs().put(start), Inputs(), Inputs()
    states = Inputs().put(states_at_first(plan, start) if state is None else state)
    for step in steps:
        gradients = sums.put(drawn_weights(plan.model, 50 + step))
        inputs = common.put({"scalars": np.array(graphs.updates.numbers(1.0, step, 10), np.float32)})
        graphs.apply(weights, states, gradients, {**inputs, **backend("CPU").inputs})
    return {n: memory(t).copy() for n, t in weights.items()}, {n: memory(t).copy() for n, t in states.items()}


def test_a_multiplied_rate_is_that_rate() -> None:
    """Bit for bit; every pattern that matches counts."""
    start = drawn_weights(made("plain")[0].model, 1)
    apart, plain, quarter = (after(name, range(1, 4), start)[0] for name in ("apart", "plain", "a quarter"))
    for name, found in apart.items():
        if name.startswith("layers.1.mlp."):
            assert np.array_equal(found, quarter[name]) and not np.array_equal(found, plain[name])
        elif not name.startswith("layers.1."):
            assert np.array_equal(found, plain[name])


def test_what_waits_is_as_frozen_and_then_as_new() -> None:
    plan, _ = made("waiting")
    start = drawn_weights(plan.model, 2)
    weights, states = after("waiting", range(1, 6), start)
    for name, found in weights.items():
        waits = name.startswith("layers.")
        assert np.array_equal(found, start[name]) == waits, name
        assert waits == (not states[f"{name}:exp_avg"].any())
    later, _ = after("waiting", range(6, 8), weights, states)
    moved = {name for name in later if not np.array_equal(later[name], weights[name])}
    assert moved == {n for n in later if not n.startswith("layers.0.")}
    # Its first step is the first of all: each weight moves by the learning rate, as Adam's corrections have it.
    once, _ = after("waiting", range(6, 7), weights, states)
    step = np.abs(once["layers.1.mlp.up_proj.weight"] - weights["layers.1.mlp.up_proj.weight"])
    kept = 0.02 * 0.1 * np.abs(weights["layers.1.mlp.up_proj.weight"])
    assert np.abs(step - 0.02).max() <= kept.max() + 1e-5


def test_what_waits_has_no_part_in_the_norm() -> None:
    plan, graphs = made("waiting")
    start, gradients = drawn_weights(plan.model, 2), drawn_weights(plan.model, 9)
    weights, states = Inputs().put(start), Inputs().put(states_at_first(plan, start))
    for step, waiting in ((1, "layers."), (6, "layers.0."), (9, "nothing")):
        scalars = {"scalars": np.array(graphs.updates.numbers(1.0, step, 10), np.float32)}
        inputs = {**Inputs().put(scalars), **backend("CPU").inputs}
        norm = float(memory(graphs.apply(weights, states, Inputs().put(gradients), inputs)))
        own = sum((g.astype(np.float64) ** 2).sum() for n, g in gradients.items() if not n.startswith(waiting))
        assert norm == pytest.approx(np.sqrt(own), rel=100 * EPS)


def test_averages_follow_their_formula() -> None:
    """In float64: what is trained, and the average of it that the weights then are."""
    plan, _ = made("averaged")
    start = drawn_weights(plan.model, 3)
    average, states = after("averaged", range(1, 8), start)
    for name, first in start.items():
        w, mean = first.astype(np.float64), first.astype(np.float64)
        for step in range(1, 8):
            gradients = {n: g.astype(np.float64) for n, g in drawn_weights(plan.model, 50 + step).items()}
            norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
            w = w - 0.5 * gradients[name] * min(1, 1 / (norm + 1e-6))
            kept = min(0.6, (1 + step) / (10 + step))
            mean = kept * mean + (1 - kept) * w
        moved = np.linalg.norm(w - first)
        assert np.linalg.norm(states[f"{name}:trained"] - w) <= EPS * (50 * moved + 8 * np.linalg.norm(w))
        assert np.linalg.norm(average[name] - mean) <= EPS * (50 * moved + 16 * np.linalg.norm(w))
        assert np.linalg.norm(average[name] - w) > 0.05 * moved
    assert [ema_decay(0.9, step) for step in (1, 100)] == [2 / 11, 0.9]


@given(st.integers(1, 400), st.integers(1, 99), st.floats(0.01, 1))
def test_groups_have_the_numbers_of_their_own_phase(steps: int, share: int, decay: float) -> None:
    plan = plan_of(MODEL, unfreeze={"layers.0.*": f"{share}%"}, layerwise_lr_decay=decay, optimizer={"kind": "muon"})
    phase, updates = plan.phases[0].phase, Updates(plan.phases[0].model, plan.phases[0].phase)
    step = 1 + steps // 2
    numbers = updates.numbers(0.7, step, steps)
    assert len(numbers) == updates.count and numbers[0] == 0.7 * phase.optimizer.lr
    for tensor in plan.phases[0].model.trained:
        *own, trains = numbers[updates.place(tensor.name)]
        waited = min(int(share * steps / 100 + 1e-9), steps - 1) if tensor.name.startswith("layers.0.") else 0
        assert trains == (step > waited)
        factor = 0.7 * trains * decay ** depth(tensor.name, plan.model)
        assert own == pytest.approx(phase.optimizer.scalars(factor, max(1, step - waited)), rel=1e-12)
    assert updates.numbers(1.0, steps, steps)[updates.place("layers.0.mlp.up_proj.weight")][-1] == 1


def test_depth_is_counted_from_the_heads() -> None:
    plan = plan_of(MODEL, layerwise_lr_decay=0.5)
    groups = {name: g.multiplier for g in tensor_groups(plan.phases[0]) for name in g.tensors}
    assert groups == {
        "lm_head.weight": 1.0,
        "final_norm.weight": 1.0,
        "layers.2.*": 0.5,
        "layers.1.*": 0.25,
        "layers.0.*": 0.125,
        "embed_tokens.weight": 0.0625,
    }
    assert sum(g.parameters for g in tensor_groups(plan.phases[0])) == plan.phases[0].model.trained_parameters


FREE = {"kind": "schedule_free_adamw"}
WRONG: dict[str, tuple[dict[str, Any], tuple[str | int, ...], str]] = {
    "misspelt": ({"lr_multipliers": {"layer.*": 0.5}}, ("lr_multipliers", "layer.*"), "layers.*"),
    "frozen": (
        {"freeze": ["layers.*"], "unfreeze": {"layers.0.*": "10%"}},
        ("unfreeze", "layers.0.*"),
        "all that do are frozen",
    ),
    "never": ({"unfreeze": {"layers.*": "100%"}}, ("unfreeze", "layers.*"), "never"),
    "at once": ({"unfreeze": {"layers.*": "0%"}}, ("unfreeze", "layers.*"), "is not frozen"),
    "all wait": ({"unfreeze": {"*": "10%"}}, ("unfreeze",), "every tensor waits"),
    "too small": ({"lr_multipliers": {"layers.*": 1e-40}}, ("lr_multipliers",), "is 0 in float32"),
    "no such name": (
        {"optimizer": {"kind": "adamw", "no_decay": ["layer.*"]}},
        ("optimizer", "no_decay", 0),
        "layers.*",
    ),
    "a norm": (
        {"optimizer": {"kind": "adamw", "no_decay": ["final_norm.*"]}},
        ("optimizer", "no_decay", 0),
        "norms and biases",
    ),
    "said inside": (
        {"optimizer": {"kind": "muon", "adamw": {"no_decay": ["embed_tokens.*"]}}},
        ("optimizer", "adamw", "no_decay"),
        "said once",
    ),
    "two averages": (
        {"optimizer": {"kind": "schedule_free_adamw"}, "schedule": {"kind": "constant"}, "ema": 0.9},
        ("ema",),
        "averages",
    ),
    "two falls": (
        {"optimizer": {"kind": "schedule_free_adamw"}, "schedule": {"kind": "cosine"}},
        ("schedule",),
        "cosine",
    ),
    "an average that stays": ({"ema": 0.99999999}, ("ema",), "float32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named(name: str) -> None:
    settings, path, said = WRONG[name]
    with pytest.raises(SpecError) as refused:
        plan_of(MODEL, **json.loads(json.dumps(settings)))
    (problem,) = refused.value.problems
    assert problem.path == ("phases", "p", *path) and said in f"{problem.message} {problem.hint}"
    assert problem.hint and problem.consequence


@pytest.mark.parametrize("name", ["averaged", "schedule free"])
def test_averages_go_on_bit_for_bit_and_are_what_is_validated(name: str) -> None:
    """Three steps, or one and two from what a checkpoint holds; validation reads the averages."""
    settings = SETTINGS.get(
        name, {"optimizer": {"kind": "schedule_free_adamw", "lr": 0.05}, "schedule": {"kind": "constant"}}
    )
    plan = plan_of(MODEL, budget="10 steps", **settings)
    phase, start = plan.phases[0], drawn_weights(plan.model, 4)

    def read(step: int) -> Arrays:
        return {
            "tokens": drawn_tokens(step),
            "targets": drawn_tokens(step + 1),
            "loss_weights": np.ones((ROWS, CONTEXT), np.float32),
            "ranges:causal": Relation().ranges(CONTEXT),
        }

    def trained(trainer: Trainer, steps: range) -> Trainer:
        for step in steps:
            numbers = trainer.steps.updates.numbers(1.0, step + 1, 10)
            trainer.step([read(step)], numbers, step)
        return trainer

    whole = trained(Trainer(plan, phase, backend("CPU"), lambda t: start[t.name]), range(3))
    first = trained(Trainer(plan, phase, backend("CPU"), lambda t: start[t.name]), range(1))
    weights, state = first.weight_arrays(), first.state_arrays()
    second = trained(Trainer(plan, phase, backend("CPU"), lambda t: weights[t.name], state), range(1, 3))
    for a, b in ((whole.weight_arrays(), second.weight_arrays()), (whole.state_arrays(), second.state_arrays())):
        assert a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)
    exact = backend("CPU")
    tables, data = Inputs().put(Transformer(plan.model).tables()), {**read(7)}
    found = whole.evaluate(data)["loss"]
    steps = Steps(phase, exact)
    for arrays, same in ((whole.weight_arrays(), True), (trained_weights(whole), False)):
        inputs = {**Inputs().put(data), **exact.inputs}
        loss = float(memory(steps.evaluate(Inputs().put(arrays), tables, inputs)[0]))
        assert (loss == found) == same


def trained_weights(trainer: Trainer) -> Arrays:
    """What is trained in the place of the weights."""
    state = trainer.state_arrays()
    return {name: state[f"{name}:trained"] for name in trainer.weight_arrays()}


def test_accumulation_is_the_large_batch() -> None:
    """Gradients of four passes of one row, added up, are those of one pass of four rows: within 1e-6 of their norm."""
    plan = plan_of(MODEL, micro_batch_size=1, gradient_accumulation_steps=ROWS)
    whole, steps = plan_of(MODEL, micro_batch_size=ROWS), Steps(plan.phases[0], backend("CPU"))
    weights, handles = Inputs().put(drawn_weights(plan.model, 5)), backend("CPU").inputs
    shares = np.random.default_rng(5).uniform(0.01, 0.1, (ROWS, CONTEXT)).astype(np.float32)
    tokens, targets, ranges = drawn_tokens(5), drawn_tokens(6), Relation().ranges(CONTEXT)

    def gradients(graphs: Steps, passes: list[slice]) -> Arrays:
        sums = Inputs().put({t.name: np.ones(t.shape, np.float32) for t in plan.model.trained})
        for number, rows in enumerate(passes):
            inputs = Inputs().put(
                {
                    "tokens": tokens[rows],
                    "targets": targets[rows],
                    "loss_weights": shares[rows],
                    "ranges:causal": ranges,
                    "keep": np.full(1, float(number > 0), np.float32),
                }
            )
            graphs.accumulate(weights, sums, {}, {**inputs, **handles})
        return {n: memory(t).astype(np.float64) for n, t in sums.items()}

    added = gradients(steps, [slice(r, r + 1) for r in range(ROWS)])
    large = gradients(Steps(whole.phases[0], backend("CPU")), [slice(0, ROWS)])
    error = np.sqrt(sum(((added[n] - large[n]) ** 2).sum() for n in large))
    assert error <= 1e-6 * np.sqrt(sum((g**2).sum() for g in large.values()))


@pytest.mark.parametrize(
    "kind", [k for k, part in OBJECTIVES.items() if {"label_smoothing", "z_loss"} & {*part.model_fields}]
)
def test_what_is_validated_is_how_probable_the_data_are(kind: str) -> None:
    """Neither smoothed nor drawn to even logits; but for pairs, of which smoothing says how many are wrong."""
    part = OBJECTIVES[kind]
    told = {key: 0.125 for key in ("label_smoothing", "z_loss") if key in part.model_fields}
    found = part.model_construct(**told).in_validation()
    kept = told if kind == "dpo" else dict.fromkeys(told, 0.0)
    assert {key: getattr(found, key) for key in told} == kept


def test_validation_leaves_the_z_loss_out() -> None:
    """And training has it: log² Z of each target, from the logits in float64."""
    z = 0.03
    with_z, without = (
        plan_of(MODEL, objective={"kind": "cross_entropy", "label_smoothing": 0.1, "z_loss": value})
        for value in (z, 0.0)
    )
    start = drawn_weights(with_z.model, 8)
    data = {
        "tokens": drawn_tokens(8),
        "targets": drawn_tokens(9),
        "loss_weights": np.ones((ROWS, CONTEXT), np.float32),
        "ranges:causal": Relation().ranges(CONTEXT),
    }
    found = {}
    for name, plan in (("with", with_z), ("without", without)):
        trainer = Trainer(plan, plan.phases[0], backend("CPU"), lambda t: start[t.name])
        validated = trainer.evaluate(data)["loss"]
        taken = trainer.step([data], trainer.steps.updates.numbers(1.0, 1, 4), 0)
        found[name] = (validated, taken.sums["loss"])
    assert found["with"][0] == found["without"][0]
    exact = {name: w.astype(np.float64) for name, w in start.items()}
    log_z = np.log(np.exp(reference.logits(with_z.model, exact, data["tokens"])).sum(-1))
    assert found["with"][1] - found["without"][1] == pytest.approx(z * (log_z**2).mean(), rel=1e-4)
