"""A batch that grows: every pass of a phase is read once, and its budget, cost and steps are counted by passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import CONTEXT, drawn_weights, plan_of

from llmspec.backends.backend import backend
from llmspec.compiler.budget import length, steps_of, tokens_of
from llmspec.compiler.cost import phase_cost, step_cost
from llmspec.core.units import Budget, Share
from llmspec.data.mixture import Demand, portions
from llmspec.parts.phases.batches import Batches, floor_sum, warmup_problems
from llmspec.training.trainer import Trainer

batches = st.builds(Batches, st.integers(2, 9), st.floats(0.01, 1.0))


@given(batches, st.integers(1, 200))
def test_steps_grow_from_one_pass_to_all(made: Batches, steps: int) -> None:
    each = [made.at(step, steps) for step in range(steps)]
    assert [made.before(step, steps) for step in range(steps + 1)] == [sum(each[:step]) for step in range(steps + 1)]
    assert each == sorted(each) and each[0] >= 1 and each[-1] <= made.most
    warm = made.growing_steps(steps) or 0
    assert set(each[warm:]) <= {made.most} and (each[0] == 1 or not warm)
    line = [1 + step * (made.most - 1) / warm for step in range(warm)]
    assert all(0 <= at - n < 1 for at, n in zip(line, each, strict=False))


@given(st.integers(0, 300), st.integers(1, 50), st.integers(0, 70))
def test_sums_of_whole_parts(n: int, m: int, a: int) -> None:
    assert floor_sum(n, m, a) == sum(a * i // m for i in range(n))


@given(batches, st.integers(1, 2000))
def test_a_number_of_passes_is_reached_by_the_fewest_steps(made: Batches, passes: int) -> None:
    steps = made.reaching(passes)
    assert made.of(steps) >= passes and (steps == 1 or made.of(steps - 1) < passes)
    assert made.reaching(made.of(steps)) == steps


@given(batches, st.integers(1, 400), st.integers(1, 3))
def test_blocks_are_those_of_all_passes(made: Batches, steps: int, rows: int) -> None:
    demands = [Demand("a", 0.7, 1e6, 10.0, 1e9), Demand("b", 0.3, 1e6, 10.0, 1e9)]
    asked = portions(Budget(float(steps), "steps"), demands, rows, made)
    assert asked.steps == steps and sum(asked.blocks) == rows * made.of(steps)
    tokens = portions(Budget(10.0 * sum(asked.blocks), "tokens"), demands, rows, made)
    assert tokens == asked


def test_budgets_and_costs_count_passes() -> None:
    plan = plan_of({"layers": 1}, budget="40 steps", gradient_accumulation_steps=4, batch_size_warmup="50%")
    (planned,) = plan.phases
    model, phase = plan.model, planned.phase
    passes = sum(1 + step * 3 // 20 for step in range(20)) + 20 * 4
    assert planned.tokens == tokens_of(model, phase, 40) == passes * phase.micro_batch_size * CONTEXT
    one, four = step_cost(model, phase, 1), step_cost(model, phase, 4)
    each_pass = (four.products - one.products) / 3
    whole = 40 * (one.products - each_pass) + passes * each_pass
    assert planned.flops == pytest.approx(whole) and phase_cost(model, phase, 40).products == pytest.approx(whole)
    for unit in ("tokens", "FLOPs", "steps"):
        assert steps_of(length(40, model, phase).budget(unit), model, phase) == 40
    assert planned.operations is not None and planned.operations < 40 * four.total


def test_a_step_is_the_mean_of_its_passes_however_many() -> None:
    """A step of two passes in a phase whose batch grows is one of a phase of two passes, balance of experts too."""
    model: dict[str, Any] = {"layers": 1, "mlp": {"kind": "mixture_of_experts", "experts": 4, "top_k": 2}}
    found = []
    for passes, share in ((2, "0%"), (4, "50%")):
        growing = {"gradient_accumulation_steps": passes, "batch_size_warmup": share, "micro_batch_size": 2}
        plan = plan_of(model, optimizer={"kind": "sgd", "lr": 0.1}, **growing)
        start = drawn_weights(plan.model, 3)
        trainer = Trainer(plan, plan.phases[0], backend("CPU"), lambda t, start=start: start[t.name])
        rng = np.random.default_rng(1)
        read = [
            {
                "tokens": rng.integers(0, 24, (2, CONTEXT)).astype(np.int32),
                "targets": rng.integers(0, 24, (2, CONTEXT)).astype(np.int32),
                "loss_weights": np.ones((2, CONTEXT), np.float32),
                "ranges:causal": np.stack([np.zeros(CONTEXT), np.arange(CONTEXT) + 1], -1)[None].astype(np.int32),
                "filled": np.ones((2, CONTEXT), np.int32),
            }
            for _ in range(2)
        ]
        taken = trainer.step(read, trainer.steps.updates.numbers(1.0, 1, 4), 0)
        found.append((taken.sums, trainer.weight_arrays()))
    (sums, weights), (grown, grown_weights) = found
    assert sums == pytest.approx(grown, rel=1e-6) and sums["balance"] > 0
    for name, array in weights.items():
        np.testing.assert_allclose(grown_weights[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("share", "passes", "budget", "word"),
    [(10.0, 1, "9 steps", "has one"), (120.0, 4, "9 steps", "more than all"), (10.0, 4, "5 minutes", "minutes")],
)
def test_what_would_change_nothing_is_refused(share: float, passes: int, budget: str, word: str) -> None:
    (problem,) = warmup_problems(Share(share), passes, Budget.parse(budget))
    assert word in problem.message and problem.hint and problem.path == ("batch_size_warmup",)
    assert not [*warmup_problems(Share(0.0), 1, Budget.parse(budget))]
