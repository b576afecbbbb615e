"""What each token of an answer was worth: rewards by token, advantages and returns, and the pull to the reference.

A place of a row counts where its mask is not 0, and an unbroken stretch of such places is one answer: its first place
predicts the answer's first token, its last place the last one, so that place t is the state before its token. A row
holds one answer or several; what stands at other places is never read. Numbers are float64.

Shape letters: B rows, T places of a row, E answers, in the order of their rows and places.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

Array = np.ndarray
Estimator = Literal["k1", "k2", "k3"]
SMALLEST_VARIANCE = 1e-8
"""Added to a variance before numbers are divided by its root."""
LARGEST_ERROR = 0.2
"""Of a KL against its target, the share of the target that moves the coefficient at most."""


class Gains(NamedTuple):
    """What tokens were worth, (B, T) each, 0 where nothing counts."""

    advantages: Array
    """How much better each token was than what was to be expected before it."""
    returns: Array
    """What the values before each token should have been: advantage and value."""


def counted(mask_BT: Any) -> Array:
    """(B, T) bool."""
    return np.asarray(mask_BT) != 0


def last_places(mask_BT: Any) -> Array:
    """(B, T) bool: the last place of each answer."""
    here = counted(mask_BT)
    return here & ~np.pad(here, ((0, 0), (0, 1)))[:, 1:]


def kl_estimates(logps_BT: Any, reference_BT: Any, mask_BT: Any, estimator: Estimator = "k1") -> Array:
    """(B, T): of KL(policy ‖ reference) at each place, from the log-probabilities of the token that the policy drew
    (Schulman 2020, "Approximating KL divergence"): with log r = reference − policy, k1 = −log r, k2 = (log r)² / 2,
    k3 = (r − 1) − log r. k1 and k3 have the right mean, k3 never falls below 0; k2 has a small bias."""
    here = counted(mask_BT)
    log_r = np.where(here, reference_BT, 0.0).astype(np.float64) - np.where(here, logps_BT, 0.0)
    if estimator == "k1":
        return -log_r
    return np.square(log_r) / 2 if estimator == "k2" else np.expm1(log_r) - log_r


def answer_scores(
    scores_E: Any,
    ended_E: Any,
    scale: float = 1.0,
    clip: float | None = None,
    missing_end_penalty: float | None = None,
) -> Array:
    """(E,): what each answer got: its reward times `scale`, then held within ±`clip`, then less the penalty where the
    model did not end its answer by itself."""
    found = np.asarray(scores_E, np.float64) * scale
    found = found if clip is None else np.clip(found, -clip, clip)
    return found - (missing_end_penalty or 0.0) * ~np.asarray(ended_E, bool)


def token_rewards(scores_E: Any, kl_BT: Any, mask_BT: Any, coefficient: float) -> Array:
    """(B, T): −coefficient · KL at each place, and at the last place of each answer its score, too (Ziegler et al.
    2019, arXiv:1909.08593, equation 2). Raises ValueError where there are not as many scores as answers."""
    ends, scores = last_places(mask_BT), np.asarray(scores_E, np.float64)
    if scores.shape != (int(ends.sum()),):
        raise ValueError(f"{scores.shape} scores of {int(ends.sum())} answers")
    found = np.where(counted(mask_BT), -coefficient * np.asarray(kl_BT, np.float64), 0.0)
    found[ends] += scores
    return found


def gae(rewards_BT: Any, values_BT: Any, mask_BT: Any, gamma: float = 1.0, lam: float = 0.95) -> Gains:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438, equation 16): A_t = δ_t + γλ·A_{t+1},
    δ_t = r_t + γ·V_{t+1} − V_t, where nothing follows the last token of an answer: V and A are 0 there."""
    here = counted(mask_BT)
    rewards, values = (np.where(here, x, 0.0).astype(np.float64) for x in (rewards_BT, values_BT))
    advantages = np.zeros_like(values)
    after, value_after = np.zeros(len(values)), np.zeros(len(values))
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * value_after - values[:, t]
        # Between two answers stands a place that does not count, where both begin again from nothing.
        after = np.where(here[:, t], delta + gamma * lam * after, 0.0)
        advantages[:, t], value_after = after, values[:, t]
    return Gains(advantages, advantages + values)


def whitened(values_BT: Any, mask_BT: Any, shift_mean: bool = True) -> Array:
    """(B, T): numbers over the root of their variance (of n − 1), with mean 0 or with the mean that they had; 0 where
    nothing counts. A single number has no variance, and is only shifted."""
    here = counted(mask_BT)
    values = np.where(here, values_BT, 0.0).astype(np.float64)
    n = int(here.sum())
    if not n:
        return values
    mean = values.sum() / n
    apart = np.where(here, values - mean, 0.0)
    if n > 1:
        apart = apart / np.sqrt(np.square(apart).sum() / (n - 1) + SMALLEST_VARIANCE)
    return apart if shift_mean else np.where(here, apart + mean, 0.0)


def next_coefficient(coefficient: float, kl: float, target: float, horizon: float, answers: int) -> float:
    """The coefficient after a rollout of so many answers whose KL was `kl`, in nats an answer: multiplied with
    1 + e · answers / horizon, e = kl / target − 1 within ±0.2 (Ziegler et al. 2019, section 2.2)."""
    error = min(max(kl / target - 1, -LARGEST_ERROR), LARGEST_ERROR)
    return coefficient * (1 + error * answers / horizon)


def explained_variance(values_BT: Any, returns_BT: Any, mask_BT: Any) -> float:
    """1 − Var(returns − values) / Var(returns): 1 for values that are right, 0 for those that say no more than a
    constant; 0, too, where all returns are equal."""
    here = counted(mask_BT)
    returns = np.asarray(returns_BT, np.float64)[here]
    spread = float(returns.var()) if returns.size else 0.0
    if spread <= SMALLEST_VARIANCE:
        return 0.0
    return 1.0 - float((returns - np.asarray(values_BT, np.float64)[here]).var()) / spread
