"""Groups of answers to the same prompt, each compared with the others."""

from __future__ import annotations

from typing import cast

import numpy as np

from llmspec.parts.objectives.grpo import GRPO as Objective
from llmspec.parts.phases.grpo import GRPO as Phase
from llmspec.training.rollouts import Episodes
from llmspec.training.tasks.rollouts import Rollouts

SMALLEST = 1e-4
"""Added to a standard deviation before rewards are divided by it."""


class GRPO(Rollouts):
    """All tokens of an answer are worth what its reward is above the mean of its group."""

    phase: Phase

    def advantages(self, made: Episodes) -> np.ndarray:
        scores = self.scores(made).reshape(-1, made.group)
        apart = scores - scores.mean(1, keepdims=True)
        if self.phase.scale_rewards == "group":
            apart = apart / (scores.std(1, ddof=1, keepdims=True) + SMALLEST)
        elif self.phase.scale_rewards == "batch":
            apart = apart / (scores.std(ddof=1) + SMALLEST)
        return np.repeat(apart.reshape(-1, 1), made.tokens.shape[1], axis=1)

    def counted(self, made: Episodes) -> np.ndarray:
        return made.ended if self.phase.mask_truncated_answers else super().counted(made)

    def weights(self, made: Episodes, which: np.ndarray) -> np.ndarray:
        lengths = made.lengths[which] * self.counted(made)[which]
        how, n = cast(Objective, self.phase.objective).loss_type, len(which)
        if how == "grpo":
            return 1 / (n * np.maximum(1, lengths))
        if how == "dr_grpo":
            return np.full(n, 1 / (n * self.phase.max_tokens))
        if how == "dapo":
            whole = int((made.lengths * self.counted(made)).sum())
            return np.full(n, self.phase.mini_batches / max(1, whole))
        return np.full(n, 1 / max(1, int(lengths.sum())))

    def per(self, which: np.ndarray) -> dict[str, float]:
        if cast(Objective, self.phase.objective).importance_ratio == "sequence":
            return dict.fromkeys(("clip_low", "clip_high"), len(which))
        return {}
