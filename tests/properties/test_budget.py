"""Budgets: every unit resolves to the others and back, and a budget is met by the first step that reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import parts

from llmspec.compiler import compile_spec, complete
from llmspec.compiler.budget import learning_rate, learning_rates, length, readable, steps_of
from llmspec.compiler.cost import step_cost
from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import SpecError
from llmspec.core.units import Budget
from llmspec.data.prepare import prepare
from llmspec.parts import phases
from llmspec.spec import load_spec

PLAN = compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", ["device=CPU", "memory_limit=64 GiB"]).spec)
SIZES = {"wiki": 1_234_567, "plays": 654_321}
UNITS = [("steps", None), ("tokens", None), ("FLOPs", None), ("epochs", "wiki"), ("epochs", "plays")]


@st.composite
def drawn_phases(draw: st.DrawFn) -> Any:
    share = draw(st.integers(1, 99))
    return phases.TABLE["pretrain"].model_validate(
        {
            "kind": "pretrain",
            "mixture": {"wiki": f"{share}%", "plays": f"{100 - share}%"},
            "budget": "1 steps",
            "micro_batch_size": draw(st.integers(1, 64)),
            "gradient_accumulation_steps": draw(st.integers(1, 16)),
            "optimizer": draw(parts("optimizer")),
            "schedule": draw(parts("schedule", skip=("warmup",))),
        }
    )


@given(drawn_phases(), st.integers(1, 10**7), st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_each_unit_resolves_to_the_others_and_back(phase: Any, steps: int, first: Any, second: Any) -> None:
    there = length(steps, PLAN.model, phase, SIZES).budget(*first)
    found = steps_of(there, PLAN.model, phase, SIZES)
    assert found == steps
    back = length(found, PLAN.model, phase, SIZES).budget(*second)
    assert steps_of(back, PLAN.model, phase, SIZES) == steps
    assert steps_of(Budget.parse(str(there)), PLAN.model, phase, SIZES) == steps


@given(drawn_phases(), st.floats(1e6, 1e22))
def test_flops_are_met_by_the_first_step_that_reaches_them(phase: Any, flops: float) -> None:
    budget = Budget(flops, "FLOPs")
    steps = steps_of(budget, PLAN.model, phase)
    assert steps is not None
    one = step_cost(PLAN.model, phase).products
    assert steps == 1 or (steps - 1) * one < flops <= steps * one * (1 + 1e-9) + one * 1e-5
    same = readable(PLAN.model, phase.model_copy(update={"budget": budget}))
    assert same.budget == Budget(float(steps), "steps")


@given(st.floats(1e-3, 1e30), st.sampled_from("kMGTPEZY"), st.sampled_from(["FLOPs", "flops", " FLOP", "FLOPS"]))
def test_flops_print_as_they_read(amount: float, prefix: str, word: str) -> None:
    budget = Budget.parse(f"{amount!r} {prefix}{word.strip()}")
    assert Budget.parse(str(budget)) == budget and budget.unit == "FLOPs"


@pytest.mark.parametrize(
    ("text", "amount"), [("1e15 FLOPs", 1e15), ("2 PFLOPs", 2e15), ("3.14e23 flops", 3.14e23), ("500 GFLOPs", 5e11)]
)
def test_flops_as_people_write_them(text: str, amount: float) -> None:
    assert Budget.parse(text) == Budget(amount, "FLOPs")


@pytest.mark.parametrize("text", ["0 FLOPs", "1 PFLOPs of wiki", "PFLOPs", "1 FLOPs/s", "-1 TFLOPs"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


def test_a_phase_planned_in_flops_reads_what_it_promised(tmp_path: Path) -> None:
    path = tiny.write(tmp_path, tiny.TINY.replace("24 steps", "200 MFLOPs"))
    plan = compile_spec(load_spec(path).spec, base=str(tmp_path))
    before, after = plan.phase("pretrain"), complete(plan, prepare(plan, offline=True).measured).phase("pretrain")
    assert before.steps == after.steps and before.steps is not None and before.steps > 1
    assert after.flops is not None and 200e6 <= after.flops < 200e6 + step_cost(plan.model, after.phase).products
    assert after.phase.budget == Budget(2e8, "FLOPs")


def test_epochs_beyond_a_sources_own_limit_are_refused_before_it_is_read() -> None:
    with pytest.raises(SpecError) as refused:
        compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", ["phases.chat.budget=4.5 epochs of wiki"]).spec)
    (problem,) = refused.value.problems
    assert problem.path == ("phases", "chat", "budget") and "max_epochs is 4" in problem.message and problem.hint


@given(drawn_phases(), st.integers(1, 10**6))
def test_the_curve_is_the_rate_at_each_step(phase: Any, steps: int) -> None:
    planned = PhasePlan.model_construct(name="p", phase=phase, steps=steps)
    curve = learning_rates(planned)
    assert len(curve) <= 120 and curve[0][0] == 1 and curve[-1][0] == steps
    for step, rate in curve:
        assert rate == learning_rate(phase, step, steps) == phase.optimizer.lr * phase.schedule.factor(step - 1, steps)
