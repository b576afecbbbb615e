"""What the answers of rollouts show while a phase learns from them: numbers of each, and what is told, or stops it.

E answers of a rollout, M tokens of one at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from llmspec.core.problems import Problem
from llmspec.parts.phases.rollouts import FAR
from llmspec.training.advantages import kl_estimates
from llmspec.training.rollouts import Episodes, Refused

ENOUGH = 8
"""Answers of a rollout from which on shares of them are told."""
NEAR = 0.01
"""Of the distance between the lowest score of a rollout and the highest: what lies so near that has it, too."""
ALIKE = 3
"""Rollouts in a row whose scores are all equal, after which that is said."""


def told(made: Episodes, scores: np.ndarray) -> dict[str, float]:
    """How the answers of a rollout are, in numbers: rewards, lengths, how often the commonest answer is given, how many
    have the best score, and how many groups have one score, or one answer.

    `scores` (E,) are what is learned from: rewards that are scaled, bounded, and less what an answer loses that was
    cut."""
    groups, rewards = scores.reshape(-1, made.group), made.rewards
    said = [tokens[:n].tobytes() for tokens, n in zip(made.tokens, made.lengths, strict=True)]
    numbers = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "score_std": float(scores.std()),
        **{f"reward/{name}": float(found.mean()) for name, found in made.parts.items() if len(made.parts) > 1},
        "answer_tokens": float(made.lengths.mean()),
        "ended": float(made.ended.mean()),
    }
    if len(said) >= ENOUGH:
        numbers["commonest_answer"] = max(Counter(said).values()) / len(said)
        near = scores >= scores.max() - NEAR * np.ptp(scores)
        numbers["at_best_reward"] = float(near.mean()) if np.ptp(scores) else 0.0
    if "entropy" in made.by_token:
        numbers["entropy"] = float(made.by_token["entropy"][made.drawn].mean())
    if made.group > 1:
        same = [len(set(said[i : i + made.group])) == 1 for i in range(0, len(said), made.group)]
        numbers["groups_alike"] = float((np.ptp(groups, axis=1) == 0).mean())
        numbers["answers_alike"] = float(np.mean(same))
    return numbers


def divergence(logps: np.ndarray, reference: np.ndarray, here: np.ndarray, drawn: np.ndarray | None = None) -> float:
    """Of a policy from its reference, in nats per token, by the log-probabilities (E, M) of answers that it drew (k1:
    where the two are far from each other, single tokens make k3 several times as large in one rollout).

    Of answers that an earlier policy has drawn, with the log-probabilities `drawn`, each token counts as much as it is
    more probable now."""
    weights = here.astype(np.float64)
    if drawn is not None:
        weights *= np.exp(np.where(here, logps - drawn, 0.0))
    return float((weights * kl_estimates(logps, reference, here, "k1")).sum() / max(1e-9, weights.sum()))


class Signs:
    """What was seen so far of a phase's rollouts, of which some is said."""

    def __init__(self, phase: str, notice: Callable[[str], None]) -> None:
        """`notice` tells a sentence."""
        self._name, self._notice, self._far = phase, notice, False
        self.alike = 0
        """Rollouts in a row, up to the last one, in which nothing could be learned from."""

    def nearness(self, kl: float, most: float | None, rollout: int) -> None:
        """Raises Refused where the policy is too far from its reference; tells once, without a ceiling, that it is far
        from it."""
        if most is not None and not kl <= most:
            raise too_far(kl, most)
        if most is None and not kl <= FAR and not self._far:
            self._far = True
            self._notice(f"{self._name}: {drifting(kl, rollout)}")

    def end(self, kl: float, most: float) -> None:
        """Tells where the last updates have left a policy that is too far from its reference: no rollout follows that
        would stop the phase."""
        if not kl <= most:
            self._notice(
                f"{self._name}: its last updates have left it {kl:.4g} nats per token from its reference, above "
                f"`kl_ceiling: {most:g}`: a checkpoint before, or a lower learning rate, would hold the model nearer"
            )

    def spread(self, rewards: np.ndarray, scores: np.ndarray, rollout: int) -> None:
        """Tells where nothing can be learned from some rollouts in a row, since all scores (E,) are the same."""
        self.alike = self.alike + 1 if float(np.ptp(scores)) == 0 else 0
        if self.alike == ALIKE:
            bounded = "" if float(np.ptp(rewards)) == 0 else ", once scaled and bounded"
            self._notice(
                f"{self._name}: every answer of {ALIKE} rollouts in a row, up to number {rollout + 1}, has the "
                f"reward {float(scores[0]):g}{bounded}: there is nothing to learn from as long as none differs"
            )


def too_far(kl: float, most: float) -> Refused:
    """The error of a rollout whose divergence from the reference is above its ceiling."""
    return Refused(
        Problem(
            f"the divergence from the reference is {kl:.4g} nats per token, above `kl_ceiling: {most:g}`",
            ("kl_ceiling",),
            "a lower learning rate, a larger `kl_coefficient`, or a higher ceiling, with `--continue-from last` or "
            "from the beginning",
            "the model would say less and less of what it was started with",
        )
    )


def drifting(kl: float, rollout: int) -> str:
    """What is said of answers that are far from the reference, where no ceiling stops the phase."""
    return (
        f"the answers of rollout {rollout + 1} are {kl:.3g} nats per token from the reference: what they say may be no "
        "text any more. Ctrl-C stops here, with everything saved; a `kl_ceiling` would, too, and a larger "
        "`kl_coefficient` or a lower learning rate holds the model nearer"
    )
