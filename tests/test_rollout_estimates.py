"""What is estimated of phases that draw answers: the time of drawing, scoring and looking at them, and their memory."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.compiler import compile_spec
from llmspec.compiler.decoding_cost import ROWS
from llmspec.compiler.memory import decoding_bytes
from llmspec.compiler.plan import PhasePlan, Plan, SharePlan
from llmspec.explain.curves import TimePart, parts_of
from llmspec.forecast.calibration import Rates
from llmspec.forecast.estimates import EARLIER, Forecast, Measured, forecasts, mean_step, shape_key
from llmspec.forecast.passes import forward_seconds, step_pieces
from llmspec.forecast.rollouts import DRAWING, LOG_PROBABILITIES, SCORING, UPDATE, lengths, rollout
from llmspec.model.graph_memory import exact
from llmspec.render.report_run import part_of_time
from llmspec.spec.schema import Spec
from llmspec.training.phase_stats import PhaseStats

RATES = Rates(
    widths=(64, 256),
    products=(5e10, 1e11),
    attention=5e10,
    loss=1.0,
    norm=1e-9,
    gate=1e-9,
    update=1e-9,
    drop=1e-9,
    call=1e-5,
)
MEMORY = 2e10


@functools.cache
def grpo() -> Plan:
    return planned()


def planned(kind: str = "grpo", reward: Any = "judge", **more: Any) -> Plan:
    """A plan whose last phase draws answers."""
    last = {
        "kind": kind,
        "from": "sft",
        "mixture": {"a": "100%"},
        "reward": reward,
        "budget": "20 steps",
        "micro_batch_size": 8,
        "prompts_per_rollout": 8,
        "answers_per_prompt": 2,
        "epochs_per_rollout": 1,
        "mini_batches": 2,
        "max_tokens": 12,
        "kl_coefficient": 0.1,
        **more,
    }
    stage = {"from": None, "mixture": {"a": "100%"}, "budget": "4 steps"}
    spec = {
        "name": "rewarded",
        "device": "CPU",
        "model": {
            "context": 64,
            "d_model": 64,
            "layers": 2,
            "attention": {"heads": 2},
            "mlp": {"kind": "swiglu", "d_ff": 128},
        },
        "tokenizer": {"kind": "bpe", "vocab": 2048},
        "data": {
            "sources": {"a": {"kind": "files", "path": "a.jsonl", "prompt": "{q}", "chosen": "{a}", "rejected": "{b}"}}
        },
        "phases": {"sft": {**stage, "kind": "sft"}, "judge": {**stage, "kind": "reward"}, "last": last},
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


def estimated(plan: Plan, earlier: dict[str, Measured] | None = None) -> Forecast:
    return forecasts(plan, RATES, earlier or {}, MEMORY)["last"]


# -- time --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_the_time_of_steps_is_that_of_all_their_parts(kind: str) -> None:
    plan = planned(kind)
    found, phase = estimated(plan), plan.phase("last")
    assert set(found.parts) == {DRAWING, SCORING, LOG_PROBABILITIES, UPDATE} and min(found.parts.values()) > 0
    assert found.steps == pytest.approx(sum(found.parts.values()))
    # The reference has no part in the steps that learn: it is asked when the answers are looked at.
    assert found.parts[UPDATE] == pytest.approx(20 * step_pieces(phase.model, phase.phase, RATES, 1).total)
    assert all(name in found.sentence for name in found.parts)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(4, 20))
def test_what_rollouts_take_follows_their_keys(prompts: int, answers: int, epochs: int, most: int) -> None:
    plan, base = grpo(), 0
    phase = plan.phase("last")
    keys = {
        "prompts_per_rollout": 2 * prompts,
        "answers_per_prompt": answers,
        "epochs_per_rollout": epochs,
        "max_tokens": most,
    }
    made = phase.model_copy(update={"phase": phase.phase.model_copy(update=keys)})
    one, steps = rollout(made, RATES, MEMORY), made.phase.steps_per_rollout
    whole = plan.model_copy(update={"phases": (*plan.phases[:-1], made)})
    assert estimated(whole).parts[DRAWING] == pytest.approx(-(-20 // steps) * one.drawing)
    more = made.model_copy(update={"phase": made.phase.model_copy(update={"answers_per_prompt": answers + 1})})
    longer = made.model_copy(update={"phase": made.phase.model_copy(update={"max_tokens": most + 1})})
    assert rollout(longer, RATES, MEMORY).drawing > one.drawing > base
    assert rollout(more, RATES, MEMORY).scoring > one.scoring
    assert one.token < one.alone or made.phase.answers == 1
    assert rollout(made, RATES, MEMORY / 10).drawing > one.drawing
    assert len({shape_key(m.model, m.phase, m.others) for m in (made, more, longer)}) == 3


def test_models_count_where_they_are_asked_and_only_there() -> None:
    by_model, by_rule = planned(), planned(reward={"kind": "length", "least": 9})
    assert SCORING not in estimated(by_rule).parts
    assert estimated(by_rule).parts[UPDATE] == pytest.approx(estimated(by_model).parts[UPDATE])
    alone = estimated(planned(kl_coefficient=0.0))
    phase = by_model.phase("last")
    reference = forward_seconds(phase.others["reference"].model, phase.phase, "lm", RATES, 1)
    passes = 10 * 2  # ten rollouts of 16 answers in rows of 8
    with_it = estimated(by_model).parts[LOG_PROBABILITIES]
    assert with_it - alone.parts[LOG_PROBABILITIES] == pytest.approx(passes * reference)
    # The base of an adapter is asked with the adapter off, by the same pass once more.
    bare, none = (
        planned(adapter={"kind": "lora", "r": 2}, kl_coefficient=weight).phase("last") for weight in (0.1, 0.0)
    )
    assert "reference" not in bare.others and bare.phase.bare_reference
    twice, once = (rollout(p, RATES, MEMORY).log_probabilities for p in (bare, none))
    assert 1.8 * once < twice < 2 * once
    chosen = estimated(planned("best_of_n", mini_batches=1, kl_coefficient=0.0))
    assert LOG_PROBABILITIES not in chosen.parts and chosen.parts[DRAWING] > 0


def test_answers_are_as_long_as_those_of_the_data_once_they_are_read() -> None:
    phase = planned().phase("last")
    assert lengths(phase) == ((64 - 12) / 2, 12)
    read = SharePlan(source="a", share=1.0, blocks=10, tokens_read=130, tokens_supervised=50)
    known = phase.model_copy(update={"shares": (read,)})
    assert lengths(known) == (8, 5)
    assert rollout(known, RATES, MEMORY).drawing < rollout(phase, RATES, MEMORY).drawing
    long = read.model_copy(update={"tokens_supervised": 125})
    assert lengths(phase.model_copy(update={"shares": (long,)})).answer == 12


def test_an_earlier_run_says_what_its_steps_went_into() -> None:
    plan = planned()
    phase: PhasePlan = plan.phase("last")
    ran = Measured(step=0.5, validation=1e-3, sample=2.0, parts={DRAWING: 0.2, UPDATE: 0.25})
    found = estimated(plan, {shape_key(phase.model, phase.phase, phase.others): ran})
    assert found.origin == EARLIER and found.steps == 0.5 * 20
    assert found.parts == {DRAWING: 0.2 * 20, UPDATE: 0.25 * 20}
    assert mean_step(phase, 20, RATES) > 0


def test_a_tally_leaves_out_the_rollout_that_captures() -> None:
    """All of its steps: else one that draws would be missing among many that do not."""
    tally = PhaseStats()
    first, later = ({DRAWING: 9.0, UPDATE: 9.0}, {UPDATE: 1.0}), ({DRAWING: 2.0, UPDATE: 1.0}, {UPDATE: 1.0})
    for parts, captured in [*((p, True) for p in first), *((p, False) for p in later)]:
        tally.stepped(sum(parts.values()), parts, captured)
    found = tally.measured()
    assert found is not None and found.parts == {DRAWING: 1.0, UPDATE: 1.0} and found.step == 2.0
    alone = PhaseStats()
    alone.stepped(18.0, first[0])
    assert (told := alone.measured()) is not None and told.step == 18.0 and told.parts == first[0]


# -- beside what came --------------------------------------------------------------------------------------------------
def test_what_was_estimated_stands_beside_what_came() -> None:
    rows = [{"step": 1, "seconds": 4.0, "parts": {DRAWING: 1.0, UPDATE: 3.0}}]
    with_it, without = parts_of(rows, {DRAWING: 6.0, UPDATE: 6.0}), parts_of(rows)
    assert [(p.name, p.share, p.promised) for p in with_it] == [(DRAWING, 0.25, 0.5), (UPDATE, 0.75, 0.5)]
    assert [p.promised for p in without] == [None, None]
    assert [part_of_time(p) for p in with_it] == ["drawing 25.0% (estimated 50.0%)", "update 75.0% (estimated 50.0%)"]
    assert part_of_time(TimePart("the rest", 1.0, 0.1)) == "the rest 10.0%"


# -- memory ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_pass_over_answers_holds_its_logits_twice(kind: str) -> None:
    plan = planned(kind, micro_batch_size=16, reward={"kind": "length", "least": 9})
    memory, phase = plan.phase("last").memory, plan.phase("last")
    assert memory is not None and memory.decoding == decoding_bytes(phase.model, ROWS)
    found = exact(plan.model_copy(update={"phases": (phase,)}))["last"]
    assert memory.evaluation == pytest.approx(found["evaluation"], rel=0.1)
    assert memory.peak - memory.decoding == pytest.approx(sum(found.values()), rel=0.05)


def test_a_phase_that_draws_few_answers_holds_as_few_rows(tmp_path: Path) -> None:
    phase = planned(prompts_per_rollout=1, answers_per_prompt=2, mini_batches=1, validation_prompts=3).phase("last")
    assert phase.memory is not None and phase.memory.decoding == decoding_bytes(phase.model, 3)
