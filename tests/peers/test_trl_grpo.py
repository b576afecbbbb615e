"""Phases of kind grpo beside TRL's GRPOTrainer: loss, gradient and metrics of the same answers."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from policy_cases import GROUP, MOST, Case, case, computed  # noqa: E402

from llmspec.parts.objectives.grpo import GRPO  # noqa: E402

CASES = [
    (1, {"loss_type": "grpo"}, {"kl_coefficient": 0.1}),
    (2, {"loss_type": "grpo", "importance_ratio": "sequence"}, {"mask_truncated_answers": True}),
    (3, {"loss_type": "dr_grpo"}, {"scale_rewards": "none"}),
    (4, {"loss_type": "dapo", "clip_high": 0.28}, {"mask_truncated_answers": True, "temperature": 0.7}),
    (5, {"loss_type": "bnpo", "clip_low": 0.1}, {"scale_rewards": "batch", "kl_coefficient": 0.3}),
    (6, {"loss_type": "dapo", "importance_ratio": "sequence"}, {"kl_coefficient": 0.05}),
]


def stub(objective: GRPO, phase: Any, logps: Any, entropies: Any) -> Any:
    """What TRL's loss reads of a trainer, with these log-probabilities for those of its model."""
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    same = SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x)
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, entropies, None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=objective.importance_ratio,
        beta=phase.kl_coefficient,
        loss_type=objective.loss_type,
        epsilon_low=objective.clip_low,
        epsilon_high=objective.clip_high,
        args=args,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MOST,
        accelerator=same,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )


def theirs(given: Case) -> tuple[float, Any, Any, dict[str, float]]:
    """(loss, gradients of features and head, metrics) of TRL, whose log-probabilities are those of the same head."""
    from trl import GRPOTrainer

    objective, phase, made, which = given.objective, given.phase, given.made, given.which
    features = torch.tensor(given.features, requires_grad=True)
    weight = torch.tensor(given.weight, requires_grad=True)
    logits_BTV = features @ weight.T / phase.temperature
    lengths = torch.tensor(made.lengths[which]).long()
    places = [
        torch.stack([logits_BTV[r, b + min(t, int(n) - 1)] for t in range(MOST)])
        for r, b, n in zip(given.found.row, given.found.begin, lengths, strict=True)
    ]
    logps_EMV = torch.stack(places).log_softmax(-1)
    ids = torch.tensor(made.tokens[which]).long()
    logps = logps_EMV.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    entropies = -(logps_EMV.exp() * logps_EMV).sum(-1)
    mask = (torch.arange(MOST) < lengths[:, None]).int()
    if phase.mask_truncated_answers:
        mask = mask * torch.tensor(made.ended[which])[:, None].int()
    rewards = torch.tensor(made.rewards)
    groups = rewards.view(-1, GROUP)
    advantages = rewards - groups.mean(1).repeat_interleave(GROUP)
    std = {"group": groups.std(1).repeat_interleave(GROUP), "batch": rewards.std().expand_as(rewards)}
    if phase.scale_rewards != "none":
        advantages = advantages / (std[phase.scale_rewards] + 1e-4)
    trainer = stub(objective, phase, logps, entropies)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": advantages[torch.tensor(which)],
        "old_per_token_logps": torch.tensor(made.by_token["logps"][which]),
        "ref_per_token_logps": torch.tensor(made.by_token["reference_logps"][which]),
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    loss.backward()
    metrics = {name: found[-1] for name, found in trainer._metrics["train"].items()}
    return float(loss.detach()), features.grad, weight.grad, metrics


@pytest.mark.parametrize(("seed", "own", "more"), CASES)
def test_loss_gradient_and_metrics_are_trls(seed: int, own: dict[str, Any], more: dict[str, Any]) -> None:
    given = case(seed, GRPO(**own), **more)
    found, of_features, of_weight = computed(given)
    loss, features, weight, metrics = theirs(given)
    assert found["loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    for ours, others in ((of_features, features), (of_weight, weight)):
        others = others.numpy()
        assert np.abs(ours - others).max() <= 1e-5 * np.abs(others).max()
    which, made = given.which, given.made
    tokens = float((made.lengths * given.task.counted(made))[which].sum())
    per = {"clip_low": tokens, "clip_high": tokens} | given.task.per(which)
    for name, called in (("clip_low", "low_mean"), ("clip_high", "high_mean")):
        assert found[name] / per[name] == pytest.approx(metrics[f"clip_ratio/{called}"], abs=1e-6)
    if given.phase.kl_coefficient:
        assert found["kl"] / tokens == pytest.approx(metrics["kl"], rel=1e-5)
