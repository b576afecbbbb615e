"""Phases of kind grpo: loss, gradient and metrics beside the formulas in float64, advantages of groups, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import reference_policy as reference
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_cases import GROUP, MOST, Case, case, computed, task_of

from llmspec.core.problems import SpecError
from llmspec.parts.objectives.grpo import GRPO
from llmspec.spec import load_spec
from llmspec.training.rollouts import Episodes

SETTINGS = {
    "loss_type": st.sampled_from(["grpo", "dr_grpo", "dapo", "bnpo"]),
    "importance_ratio": st.sampled_from(["token", "sequence"]),
    "clip_low": st.sampled_from([0.0, 0.1, 0.2]),
    "clip_high": st.sampled_from([0.1, 0.28]),
}
OF_PHASE = {
    "kl_coefficient": st.sampled_from([0.0, 0.1]),
    "mask_truncated_answers": st.booleans(),
    "scale_rewards": st.sampled_from(["group", "batch", "none"]),
    "temperature": st.sampled_from([1.0, 0.7]),
}


def expected(given: Case, features: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """The sums of a step in float64, answer by answer."""
    objective, phase, made, which = given.objective, given.phase, given.made, given.which
    logits = given.by_answer((features @ weight.T) / phase.temperature)
    tokens = made.tokens[which]
    counts = (np.arange(MOST) < made.lengths[which][:, None]).astype(float)
    if phase.mask_truncated_answers:
        counts = counts * made.ended[which][:, None]
    scores = made.rewards.astype(np.float64).reshape(-1, GROUP)
    return reference.grpo(
        logits,
        tokens,
        counts,
        given.made.by_token["logps"][which].astype(np.float64),
        given.made.by_token["reference_logps"][which].astype(np.float64),
        reference.group_advantages(scores, phase.scale_rewards).reshape(-1)[which],
        bounds=(1 - objective.clip_low, 1 + objective.clip_high),
        loss_type=objective.loss_type,
        by_answer=objective.importance_ratio == "sequence",
        beta=phase.kl_coefficient,
        longest=MOST,
    )


@pytest.mark.parametrize(
    ("seed", "own", "more"),
    [
        (1, {"loss_type": "grpo"}, {"kl_coefficient": 0.1}),
        (2, {"loss_type": "dr_grpo", "importance_ratio": "sequence"}, {"scale_rewards": "none"}),
        (3, {"clip_low": 0.1, "clip_high": 0.28}, {"mask_truncated_answers": True, "temperature": 0.7}),
        (4, {"loss_type": "bnpo"}, {"scale_rewards": "batch", "mask_truncated_answers": True}),
    ],
)
def test_loss_gradient_and_metrics_are_those_of_the_formulas(
    seed: int, own: dict[str, Any], more: dict[str, Any]
) -> None:
    beside_the_formulas(seed, own, more)


@pytest.mark.nightly
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 20), own=st.fixed_dictionaries(SETTINGS), more=st.fixed_dictionaries(OF_PHASE))
def test_so_they_are_with_all_settings(seed: int, own: dict[str, Any], more: dict[str, Any]) -> None:
    beside_the_formulas(seed, own, more)


def beside_the_formulas(seed: int, own: dict[str, Any], more: dict[str, Any]) -> None:
    given = case(seed, GRPO(**own), **more)
    found, of_features, of_weight = computed(given)
    features, weight = given.features.astype(np.float64), given.weight.astype(np.float64)
    wanted = expected(given, features, weight)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
    random, size = np.random.default_rng(seed), 1e-6
    for _ in range(2):  # along directions by chance; a kink of the bounds between two points is no fault
        along = random.normal(0, 1, features.shape), random.normal(0, 1, weight.shape)
        ends = [expected(given, features + s * along[0], weight + s * along[1])["loss"] for s in (size, -size)]
        slope = float((of_features * along[0]).sum() + (of_weight * along[1]).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=2e-4, abs=2e-5)


def made(rewards: list[float], ended: list[bool] | None = None) -> Episodes:
    n = len(rewards)
    ends = np.array(ended if ended is not None else [True] * n)
    tokens = np.zeros((n, MOST), np.int32)
    given = np.array(rewards, np.float32)
    return Episodes(((),) * (n // GROUP), tokens, np.full(n, 2, np.int32), ends, {}, given, {})  # type: ignore[arg-type]


def test_groups_whose_rewards_are_alike_teach_nothing() -> None:
    task = task_of(GRPO())
    found = task.advantages(made([1, 1, 1, 0, 1, 0]))
    assert not found[:3].any() and (found[4] > 0).all() and (found[[3, 5]] < 0).all()
    assert found[3:].sum() == pytest.approx(0, abs=1e-5)


def test_rewards_are_scaled_bounded_and_cut_answers_pay() -> None:
    task = task_of(GRPO(), scale_rewards="none", reward_scale=2.0, reward_clip=3.0, missing_end_penalty=1.0)
    found = task.advantages(made([5.0, 1.0, 0.0], [True, False, True]))[:, 0]
    assert found == pytest.approx(np.array([3.0, 1.0, 0.0]) - 4 / 3)


def test_answers_that_were_cut_count_nothing() -> None:
    one = case(3, GRPO(), mask_truncated_answers=True)
    cut = ~one.made.ended[one.which]
    assert cut.any() and not cut.all()
    weights = one.by_answer(one.arrays["loss_weights"])[..., 0]
    assert not weights[cut].any() and (weights[~cut][:, 0] > 0).all()
    _, of_features, _ = computed(one)
    assert not one.by_answer(of_features)[cut].any()


def test_told_numbers_say_what_a_rollout_was_like() -> None:
    task = task_of(GRPO())
    task.phase = task.phase.model_copy(update={"reference": None, "adapter": None, "kl_ceiling": None})
    given = made([1, 1, 1, 0, 1, 0], [True, True, False, True, True, True])
    given.tokens[4] = 7
    found = task.told(given)
    assert found["groups_alike"] == 0.5 and found["answers_alike"] == 0.5
    assert found["reward"] == pytest.approx(2 / 3) and found["ended"] == pytest.approx(5 / 6)
    assert found["answer_tokens"] == 2


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("answers_per_prompt=1", "`answers_per_prompt:` is 2 or more"),
        ("mini_batches=3", "cannot be divided into 3 `mini_batches`"),
        ("document_mask=false", "none may see another"),
        ("budget=2 PFLOPs", "write `budget: 200 steps`"),
        ("budget=1M tokens", "write `budget: 200 steps`"),
        ("reward=exact_mtch", "exact_mtch"),
        ("objective={kind: cross_entropy}", "cross_entropy"),
        ("from=null", "names none"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, sets: str, said: str) -> None:
    from llmspec.compiler import compile_spec

    text, own = phase_kinds.spec_of("grpo")
    with pytest.raises(SpecError) as error:
        compile_spec(load_spec(tiny.write(tmp_path, text), [*own, f"phases.phase.{sets}"]).spec)
    told = [f"{p.message} {p.hint}" for p in error.value.problems]
    assert any(said in one for one in told), told
