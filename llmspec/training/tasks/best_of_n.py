"""The best of several answers to each prompt, learned as written ones are."""

from __future__ import annotations

import numpy as np

from llmspec.parts.phases.best_of_n import BestOfN as Phase
from llmspec.training.rollouts import Episodes
from llmspec.training.tasks.rollouts import Rollouts


class BestOfN(Rollouts):
    """Each prompt's answer of the highest score, the first of those that are alike, where it reaches the threshold."""

    phase: Phase

    def chosen(self, made: Episodes) -> np.ndarray:
        scores = self.scores(made).reshape(-1, made.group)
        return np.arange(len(scores)) * made.group + scores.argmax(1)

    def counted(self, made: Episodes) -> np.ndarray:
        least = self.phase.threshold
        kept = np.zeros(len(made.lengths), bool)
        best = self.chosen(made)
        kept[best] = True if least is None else made.rewards[best] >= least
        return kept

    def advantages(self, made: Episodes) -> np.ndarray:
        """Nothing: what is learned counts alike."""
        return np.zeros(made.tokens.shape)

    def told(self, made: Episodes) -> dict[str, float]:
        kept = self.counted(made)
        found = {"kept": float(kept.sum() / len(made.prompts))}
        best = made.rewards[self.chosen(made)]
        return super().told(made) | {"reward_best": float(best.mean())} | found
