"""Answers whose tokens are worth what they turned out better than a value function expected.

E answers of a rollout, M tokens of one at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import RunError
from llmspec.parts.objectives.policy import LOGPS, REFERENCE_LOGPS
from llmspec.parts.objectives.ppo import VALUES
from llmspec.parts.phases.ppo import PPO as Phase
from llmspec.training.advantages import (
    Gains,
    explained_variance,
    gae,
    kl_estimates,
    next_coefficient,
    token_rewards,
    whitened,
)
from llmspec.training.context import RunContext
from llmspec.training.rollouts import Episodes
from llmspec.training.tasks.rollouts import Rollouts
from llmspec.training.trainer import Trainer


class PPO(Rollouts):
    """Each token has a reward of its own: a pull to the reference, and for the last one the answer's score."""

    phase: Phase

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        self._used = self._next = self.phase.kl_coefficient
        """What a divergence takes from rewards in the rollout that is there, and in the one that follows it."""
        self._found: tuple[int, Gains] | None = None

    def roll(self, trainer: Trainer, rollout: int) -> Episodes:
        made = super().roll(trainer, rollout)
        self._used, follows = self._next, self.phase.adaptive_kl
        if follows is not None:
            kl = float(self.divergences(made).sum(1).mean())
            self._next = next_coefficient(self._used, kl, follows.target, follows.horizon, len(made.lengths))
        return made

    def divergences(self, made: Episodes) -> np.ndarray:
        """(E, M): how far each token lies from the reference, in nats; 0 behind an answer."""
        logps, reference = made.by_token[LOGPS], made.by_token[REFERENCE_LOGPS]
        return kl_estimates(logps, reference, made.drawn, self.phase.kl_estimator)

    def gains(self, made: Episodes) -> Gains:
        """Advantages, not whitened, and returns (E, M), once a rollout."""
        if self._found is None or self._found[0] != self.rollout:
            here, phase = made.drawn, self.phase
            rewards = token_rewards(self.scores(made), self.divergences(made), here, self._used)
            if phase.whiten_rewards:
                rewards = whitened(rewards, here, shift_mean=False)
            self._found = self.rollout, gae(rewards, made.by_token[VALUES], here, phase.gamma, phase.lam)
        return self._found[1]

    def advantages(self, made: Episodes) -> np.ndarray:
        found = self.gains(made).advantages
        return whitened(found, made.drawn) if self.phase.whiten_advantages else found

    def measures(self, made: Episodes) -> Mapping[str, np.ndarray]:
        return {"returns": self.gains(made).returns, "old_values": made.by_token[VALUES]}

    def told(self, made: Episodes) -> dict[str, float]:
        """How the answers of a rollout are; of the divergence, the estimate of a token that rewards are made of."""
        here = made.drawn
        found = {**super().told(made), "kl": float(self.divergences(made).sum() / max(1, int(here.sum())))}
        variance = explained_variance(made.by_token[VALUES], self.gains(made).returns, here)
        return {**found, "kl_coefficient": self._used, "explained_variance": variance}

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def state(self, step: int) -> dict[str, Any]:
        return {**super().state(step), "kl_coefficients": [self._used, self._next]}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        both = state.get("kl_coefficients")
        if not (isinstance(both, list) and len(both) == 2 and all(isinstance(x, float) and x >= 0 for x in both)):
            raise RunError("its kl_coefficients are damaged", hint="remove it, so that the one before it is used")
        super().restore(state, tensors, step)
        (self._used, self._next), self._found = both, None
