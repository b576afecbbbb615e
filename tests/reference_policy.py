"""What rollouts are learned from, in float64: advantages of groups, and the loss of kind grpo, answer by answer.

P prompts, G answers to each, E answers, M tokens of an answer at most, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def group_advantages(rewards_PG: Array, scale: str) -> Array:
    """(P, G): how far each reward lies above the mean of its group, over a standard deviation (of n − 1)."""
    apart = rewards_PG - rewards_PG.mean(1, keepdims=True)
    if scale == "group":
        return apart / (rewards_PG.std(1, ddof=1, keepdims=True) + 1e-4)
    return apart / (rewards_PG.std(ddof=1) + 1e-4) if scale == "batch" else apart


def grpo(
    logits_EMV: Array,
    tokens_EM: Array,
    counts_EM: Array,
    old_EM: Array,
    reference_EM: Array,
    advantages_E: Array,
    bounds: tuple[float, float],
    loss_type: str,
    by_answer: bool,
    beta: float,
    longest: int,
) -> dict[str, float]:
    """The loss of group relative policy optimisation (DeepSeekMath, equation 3, and its other normalisations), and
    sums: KL of tokens, and how many ratios are outside of the bounds."""
    total = {"loss": 0.0, "kl": 0.0, "clip_low": 0.0, "clip_high": 0.0}
    n, whole = len(tokens_EM), max(1.0, float(counts_EM.sum()))
    for i in range(n):
        places = [t for t in range(tokens_EM.shape[1]) if counts_EM[i, t]]
        logps = [float(logits_EMV[i, t, tokens_EM[i, t]] - np.log(np.exp(logits_EMV[i, t]).sum())) for t in places]
        apart = [logp - old_EM[i, t] for logp, t in zip(logps, places, strict=True)]
        if by_answer and places:
            apart = [sum(apart) / len(apart)] * len(apart)
        divide = {"grpo": n * max(1, len(places)), "dr_grpo": n * longest}.get(loss_type, whole)
        for logp, difference, t in zip(logps, apart, places, strict=True):
            ratio, advantage, share = np.exp(difference), advantages_E[i], 1 / len(places) if by_answer else 1.0
            further = reference_EM[i, t] - logp
            kl = np.exp(further) - further - 1
            gain = min(ratio * advantage, min(max(ratio, bounds[0]), bounds[1]) * advantage)
            total["loss"] += (beta * kl - gain) / divide
            total["kl"] += kl
            total["clip_low"] += share * (ratio < bounds[0] and advantage < 0)
            total["clip_high"] += share * (ratio > bounds[1] and advantage > 0)
    return {name: float(value) for name, value in total.items()}
