"""Answers whose tokens are worth what they turned out better than a value function expected.

E answers of a rollout, M tokens of one at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmspec.compiler.critic import critic_plan
from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import RunError
from llmspec.data.inputs import Arrays
from llmspec.forecast.rollouts import UPDATE
from llmspec.model.others import Weights
from llmspec.parts.objectives.policy import LOGPS, REFERENCE_LOGPS
from llmspec.parts.objectives.value_function import CRITIC, VALUES
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
from llmspec.training.critic import Critic, Moment
from llmspec.training.rollouts import Episodes, packed
from llmspec.training.tasks.base import Shapes
from llmspec.training.tasks.rollouts import Rollouts
from llmspec.training.trainer import StepTaken, Trainer

VALUE_NORM = "value_norm"
"""Of the gradient of a critic with a body of its own, before clipping."""


class PPO(Rollouts):
    """Each token has a reward of its own: a pull to the reference, and for the last one the answer's score."""

    phase: Phase

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        self._used = self._next = self.phase.kl_coefficient
        """What a divergence takes from rewards in the rollout that is there, and in the one that follows it."""
        self._found: tuple[int, Gains] | None = None
        planned = critic_plan(phase)
        body = phase.others[CRITIC].model if planned is not None else None
        self.critic = Critic(context, planned, body, self.phase.reward_scale) if planned and body else None
        """What says values, where that is no head of the policy."""

    def begin(self, trainer: Trainer, others: Weights) -> bool:
        if self.critic is not None:
            self.critic.begin(others[CRITIC])
        return super().begin(trainer, others)

    # -- values --------------------------------------------------------------------------------------------------
    @property
    def gathered(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super().gathered, VALUES)))

    def looked_at(self, trainer: Trainer, made: Episodes) -> dict[str, np.ndarray]:
        found = super().looked_at(trainer, made)
        if (critic := self.critic) is not None:
            every = np.arange(len(made.lengths))
            rows = packed(made, every, self._shape, self._end)
            nothing = dict.fromkeys(("returns", "old_values"), np.zeros(made.tokens.shape, np.float32))
            arrays = self._arrays_of(made, every, rows, nothing, reader=(critic.objective, critic.inputs))
            seen = [critic.trainer.evaluate(one)[VALUES] for one in arrays]
            found[VALUES] = rows.gathered(seen, made.lengths, made.tokens.shape[1])
        return found

    def train(self, trainer: Trainer, step: int, scalars: Sequence[float]) -> StepTaken:
        """Takes a step of the policy, and of a critic beside it."""
        taken = super().train(trainer, step, scalars)
        if self.critic is None or taken.skipped:
            return taken
        with self.spending(UPDATE):
            own = self.critic.step(self.critic_batches(), self.now or self._moment(step), step)
        sums = {**taken.sums, **own.sums, "loss": taken.sums["loss"] + own.sums["loss"], VALUE_NORM: own.norm}
        return taken._replace(sums=sums)

    def critic_batches(self) -> list[Arrays]:
        """What the critic reads of the answers that the policy's step reads."""
        assert self.critic is not None and self.made is not None and self._taken is not None
        (which, rows), made, reader = self._taken, self.made, (self.critic.objective, self.critic.inputs)
        return self._arrays_of(made, which, rows, self.measures(made), self.weights(made, which), reader)

    def _moment(self, step: int) -> Moment:
        steps = self.plan.steps or 1
        return self.phase.schedule.factor(step, steps), step + 1, steps, step + 1

    def per(self, which: np.ndarray) -> dict[str, float]:
        return {**super().per(which), **({VALUE_NORM: 1.0} if self.critic is not None else {})}

    def captured_bytes(self) -> int:
        return super().captured_bytes() + (self.critic.captured_bytes() if self.critic is not None else 0)

    # -- what tokens are worth -----------------------------------------------------------------------------------
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

    def tensor_shapes(self) -> Shapes:
        own = self.critic.shapes() if self.critic is not None else {}
        return {**super().tensor_shapes(), **{f"{CRITIC}/{name}": shape for name, shape in own.items()}}

    def tensors(self) -> dict[str, Any]:
        own = self.critic.tensors() if self.critic is not None else {}
        return {**super().tensors(), **{f"{CRITIC}/{name}": array for name, array in own.items()}}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        both = state.get("kl_coefficients")
        if not (isinstance(both, list) and len(both) == 2 and all(isinstance(x, float) and x >= 0 for x in both)):
            raise RunError("its kl_coefficients are damaged", hint="remove it, so that the one before it is used")
        super().restore(state, tensors, step)
        (self._used, self._next), self._found = both, None
        if self.critic is not None:
            self.critic.restore({name: tensors[f"{CRITIC}/{name}"] for name in self.critic.shapes()})
