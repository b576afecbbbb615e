"""Optimizer steps equal the published formulas in float64; clipping, accumulation and what is never decayed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CONTEXT, EPS, ROWS, Arrays, Inputs, drawn_tokens, drawn_weights, memory, plan_of, states_at_first

from llmspec.backends.backend import backend
from llmspec.compiler.masks import Relation
from llmspec.compiler.plan import Plan
from llmspec.model.steps import Steps
from llmspec.parts import optimizers

seeds = st.integers(0, 2**32 - 1)
State = dict[str, np.ndarray]

MODEL: dict[str, Any] = {
    "layers": 1,
    "position": {"kind": "learned"},
    "attention": {"kind": "multi_head", "heads": 2, "bias": True},
    "mlp": {"kind": "gelu", "d_ff": 24},
    "norm": {"kind": "layernorm"},
    "heads": {"lm": {"kind": "lm", "tied": False}},
}
"""Every role, and matrices that are square, tall and wide."""

CHOSEN: dict[str, tuple[dict[str, Any], float | None]] = {
    "sgd": ({"kind": "sgd", "lr": 0.1, "weight_decay": 0.3}, None),
    "sgd with momentum": ({"kind": "sgd", "lr": 0.1, "momentum": 0.8}, 0.5),
    "sgd looking ahead": ({"kind": "sgd", "lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2}, 2.0),
    "adam": ({"kind": "adam", "lr": 0.02, "beta1": 0.8, "beta2": 0.9, "eps": 1e-4, "weight_decay": 0.2}, 1.0),
    "adamw": ({"kind": "adamw", "lr": 0.02, "beta1": 0.7, "beta2": 0.99, "weight_decay": 0.5}, 1.0),
    "muon": (
        {
            "kind": "muon",
            "lr": 0.03,
            "momentum": 0.9,
            "weight_decay": 0.4,
            "adamw": {"kind": "adamw", "lr": 0.01, "weight_decay": 0.3},
        },
        None,
    ),
    "adafactor": ({"kind": "adafactor", "lr": 0.05, "eps2": 0.01, "weight_decay": 0.2}, 1.0),
    "adafactor with absolute rates": (
        {"kind": "adafactor", "lr": 0.01, "scale_parameter": False, "beta2_decay": -0.5, "clip_threshold": 0.6},
        None,
    ),
    "lion": ({"kind": "lion", "lr": 0.01, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.3}, None),
    "schedule_free_adamw": (
        {"kind": "schedule_free_adamw", "lr": 0.02, "beta1": 0.8, "beta2": 0.9, "eps": 1e-4, "weight_decay": 0.5},
        1.0,
    ),
    "muon not looking ahead": ({"kind": "muon", "lr": 0.03, "nesterov": False, "iterations": 3}, 1.0),
}
"""By name: settings, and the largest gradient norm."""


# -- the formulas ---------------------------------------------------------------------------------------------------


def sgd(o: Any, w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, step: int) -> np.ndarray:
    g = g + decay * w
    if not o.momentum:
        return w - lr * g
    s["momentum_buffer"] = o.momentum * s["momentum_buffer"] + g
    return w - lr * (g + o.momentum * s["momentum_buffer"] if o.nesterov else s["momentum_buffer"])


def adam(o: Any, w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, step: int) -> np.ndarray:
    """Algorithm 1 of Kingma & Ba, the decay an L2 term."""
    g = g + decay * w
    s["exp_avg"] = o.beta1 * s["exp_avg"] + (1 - o.beta1) * g
    s["exp_avg_sq"] = o.beta2 * s["exp_avg_sq"] + (1 - o.beta2) * g**2
    mean, square = s["exp_avg"] / (1 - o.beta1**step), s["exp_avg_sq"] / (1 - o.beta2**step)
    return w - lr * mean / (np.sqrt(square) + o.eps)


def adamw(o: Any, w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, step: int) -> np.ndarray:
    """Algorithm 2 of Loshchilov & Hutter: the weight shrinks by itself."""
    return adam(o, w, g, s, lr, 0.0, step) - lr * decay * w


def newton_schulz(m: np.ndarray, iterations: int) -> np.ndarray:
    """x ← a·x + (b·A + c·A²)·x with A = x·xᵀ, from m over its norm: done on the singular values themselves."""
    u, sigma, v = np.linalg.svd(m, full_matrices=False)
    sigma = sigma / (np.linalg.norm(m) + 1e-7)
    for _ in range(iterations):
        sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    return (u * sigma) @ v


def muon(o: Any, w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, step: int) -> np.ndarray:
    s["momentum_buffer"] = o.momentum * s["momentum_buffer"] + (1 - o.momentum) * g
    ahead = (1 - o.momentum) * g + o.momentum * s["momentum_buffer"] if o.nesterov else s["momentum_buffer"]
    scale = np.sqrt(max(1, w.shape[0] / w.shape[1]))
    return w - lr * scale * newton_schulz(ahead, o.iterations) - lr * decay * w


def lion(o: Any, w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, step: int) -> np.ndarray:
    """Algorithm 2 of Chen et al."""
    update = np.sign(o.beta1 * s["exp_avg"] + (1 - o.beta1) * g)
    s["exp_avg"] = o.beta2 * s["exp_avg"] + (1 - o.beta2) * g
    return w - lr * (update + decay * w)


def adafactor(o: Any, w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, step: int) -> np.ndarray:
    """Algorithms 4 and 5 of Shazeer & Stern, the decay of the size of the update."""
    kept, squares = 1 - float(step) ** o.beta2_decay, g**2 + o.eps1
    if w.ndim == 1:
        s["exp_avg_sq"] = kept * s["exp_avg_sq"] + (1 - kept) * squares
        moment = s["exp_avg_sq"]
    else:
        s["exp_avg_sq_row"] = kept * s["exp_avg_sq_row"] + (1 - kept) * squares.mean(-1)
        s["exp_avg_sq_col"] = kept * s["exp_avg_sq_col"] + (1 - kept) * squares.mean(-2)
        moment = np.outer(s["exp_avg_sq_row"], s["exp_avg_sq_col"]) / s["exp_avg_sq_row"].mean()
    update = g / np.sqrt(moment)
    update /= max(1, np.sqrt((update**2).mean()) / o.clip_threshold)
    lr = lr * max(o.eps2, np.sqrt((w**2).mean())) if o.scale_parameter else lr
    return w - lr * update - lr * decay * w


def schedule_free(o: Any, w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, step: int) -> np.ndarray:
    """Algorithm 1 of Defazio et al.; `w` is the average, and the gradient was taken at the state `trained`."""
    s["exp_avg_sq"] = o.beta2 * s["exp_avg_sq"] + (1 - o.beta2) * g**2
    update = g / (np.sqrt(s["exp_avg_sq"] / (1 - o.beta2**step)) + o.eps) + decay * s["trained"]
    s["z"] = s["z"] - lr * update
    s["weight_sum"] = s["weight_sum"] + lr**2
    share = lr**2 / s["weight_sum"][0] if s["weight_sum"][0] else 0.0
    w = (1 - share) * w + share * s["z"]
    s["trained"] = (1 - o.beta1) * s["z"] + o.beta1 * w
    return w


FORMULAS = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "muon": muon,
    "lion": lion,
    "adafactor": adafactor,
    "schedule_free_adamw": schedule_free,
}


def expected(o: Any, role: str, w: np.ndarray, g: np.ndarray, s: State, factor: float, step: int) -> np.ndarray:
    """The weight after a step; the state is changed in place."""
    if o.kind == "muon" and role != "matrix":
        return expected(o.adamw, role, w, g, s, factor, step)
    decay = 0.0 if role in ("norm", "bias") else o.weight_decay
    return FORMULAS[o.kind](o, w, g, s, o.lr * factor, decay, step)


# -- the graphs -----------------------------------------------------------------------------------------------------


@functools.cache
def made(name: str) -> tuple[Plan, Steps, Inputs, Inputs, Inputs, Inputs]:
    options, clip = CHOSEN[name]
    schedules = optimizers.TABLE[options["kind"]].schedules
    own = {"schedule": {"kind": schedules[0]}} if schedules else {}
    plan = plan_of(MODEL, optimizer=options, max_grad_norm=clip, **own)
    return plan, Steps(plan.phases[0], backend("CPU")), Inputs(), Inputs(), Inputs(), Inputs()


def test_every_optimizer_is_chosen() -> None:
    assert {options["kind"] for options, _ in CHOSEN.values()} == set(optimizers.TABLE) == set(FORMULAS)
    shown = {t.role for t in made("sgd")[0].model.tensors}
    assert shown == {"embedding", "matrix", "head", "norm", "bias"}


@pytest.mark.parametrize("name", CHOSEN)
@settings(deadline=None, max_examples=6)
@given(seeds, st.sampled_from([0.0, 1e-3, 1.0, 1e3]), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_steps_follow_the_formulas(name: str, seed: int, spread: float, factors: list[float]) -> None:
    plan, steps, weights, state, sums, common = made(name)
    o, clip = plan.phases[0].phase.optimizer, CHOSEN[name][1]
    w = drawn_weights(plan.model, seed)
    start = {n: v.astype(np.float64) for n, v in w.items()}
    exact = dict(start)
    states: dict[str, State] = {n: {} for n in w}
    begun = states_at_first(plan, w)
    for key, value in begun.items():
        states[key.split(":")[0]][key.split(":")[1]] = value.astype(np.float64)
    weights.put(w)
    state.put(begun)
    for step, factor in enumerate(factors, 1):
        g = {n: v * spread for n, v in drawn_weights(plan.model, (seed + step) % 2**32).items()}
        g = {n: v.astype(np.float32) for n, v in g.items()}
        inputs = common.put({"scalars": np.array(o.scalars(factor, step), np.float32)})
        norm = memory(steps.apply(weights, state, sums.put(g), {**inputs, **backend("CPU").inputs}))
        whole = np.sqrt(sum((v.astype(np.float64) ** 2).sum() for v in g.values()))
        assert float(norm) == pytest.approx(whole, rel=100 * EPS)
        shrink = 1.0 if clip is None else min(1.0, clip / (whole + 1e-6))
        for t in plan.model.tensors:
            n = t.name
            exact[n] = expected(o, t.role, exact[n], g[n].astype(np.float64) * shrink, states[n], factor, step)
    for t in plan.model.tensors:
        moved, w32 = np.linalg.norm(exact[t.name] - start[t.name]), np.linalg.norm(start[t.name])
        # Each iteration of Newton–Schulz makes an error up to 3.4 times as large.
        growth = 3.4445**o.iterations if o.kind == "muon" and t.role == "matrix" else 1.0
        room = EPS * (8 * w32 + (40 + 8 * growth) * moved)
        assert np.linalg.norm(memory(weights[t.name]) - exact[t.name]) <= room, t.name
        for key, value in states[t.name].items():
            error = np.linalg.norm(memory(state[f"{t.name}:{key}"]) - value)
            assert error <= 100 * EPS * np.linalg.norm(value) + 1e-30, (t.name, key)


@pytest.mark.parametrize("kind", optimizers.TABLE)
def test_norms_and_biases_are_never_decayed(kind: str) -> None:
    options = optimizers.TABLE[kind](weight_decay=0.5)
    assert [options.decay(role) for role in ("embedding", "matrix", "head", "norm", "bias")] == [0.5] * 3 + [0.0] * 2


# -- gradients added up, and the whole step -------------------------------------------------------------------------


def batch(seed: int, counted: np.ndarray, keep: float) -> Arrays:
    shares = np.random.default_rng(seed).uniform(0.01, 0.1, (ROWS, CONTEXT)) * counted
    return {
        "tokens": drawn_tokens(seed),
        "targets": drawn_tokens(seed + 1),
        "loss_weights": shares.astype(np.float32),
        "keep": np.full(1, keep, np.float32),
        "ranges:causal": Relation().ranges(CONTEXT),
    }


@settings(deadline=None, max_examples=5)
@given(seeds)
def test_small_batches_add_up_to_the_large_one(seed: int) -> None:
    plan, steps, *_ = made("adamw")
    weights, handles = Inputs().put(drawn_weights(plan.model, seed)), backend("CPU").inputs
    sums, data = Inputs(), Inputs()

    def run(*passes: Arrays) -> tuple[float, Arrays]:
        # What an earlier step left in the sums, another amount each time: the first pass forgets it.
        sums.put({t.name: np.full(t.shape, 3 * len(passes), np.float32) for t in plan.model.tensors})
        losses = [float(memory(steps.accumulate(weights, sums, {}, {**data.put(p), **handles})[0])) for p in passes]
        return sum(losses), {n: memory(t).astype(np.float64) for n, t in sums.items()}

    rows = np.arange(ROWS)[:, None] * np.ones(CONTEXT)
    loss, whole = run(batch(seed, rows >= 0, 0.0))
    total, added = run(*(batch(seed, rows == r, float(r > 0)) for r in range(ROWS)))
    assert total == pytest.approx(loss, rel=100 * EPS)
    size = np.sqrt(sum((g**2).sum() for g in whole.values()))
    for n, g in whole.items():
        assert np.linalg.norm(added[n] - g) <= 300 * EPS * (np.linalg.norm(g) + size / 8), n


def test_a_step_is_its_gradients_and_their_update() -> None:
    plan, steps, *_ = made("adamw")
    handles, w = backend("CPU").inputs, drawn_weights(plan.model, 1)
    scalars = {"scalars": np.array(plan.phases[0].phase.optimizer.scalars(0.5, 1), np.float32)}
    zeros = {n: np.zeros(shape, np.float32) for n, shape in steps.state_shapes().items()}
    one, other = ((Inputs().put(w), Inputs().put(zeros)) for _ in range(2))
    data, rates = Inputs().put(batch(4, np.ones((ROWS, CONTEXT)), 0.0)), Inputs().put(scalars)
    whole = {k: v for k, v in data.items() if k != "keep"}
    sums = Inputs().put({n: np.ones(v.shape, np.float32) for n, v in w.items()})
    loss, norm = (float(memory(t)) for t in steps.train(*one, {}, {**whole, **rates, **handles}))
    assert loss == float(memory(steps.accumulate(other[0], sums, {}, {**data, **handles})[0]))
    apart = steps.apply(*other, sums, {**rates, **handles})
    assert norm == pytest.approx(float(memory(apart)), rel=10 * EPS)
    for n, before in w.items():
        moved = np.linalg.norm(memory(one[0][n]) - before)
        assert moved > 0 and np.linalg.norm(memory(one[0][n]) - memory(other[0][n])) < 1e-4 * moved, n
    assert float(memory(steps.evaluate(one[0], {}, {**whole, **handles})[0])) < loss
