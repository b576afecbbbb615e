"""Proximal policy optimisation of answers against a reward (Ziegler et al. 2019, arXiv:1909.08593; Ouyang et al. 2022,
arXiv:2203.02155, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.base import Frozen
from llmspec.parts.heads import Head
from llmspec.parts.heads.scalar import Scalar
from llmspec.parts.objectives.base import VALUED
from llmspec.parts.phases.rollouts import RolloutPhase


class AdaptiveKL(Frozen):
    """A coefficient that follows a divergence (Ziegler et al. 2019, section 2.2)."""

    target: float = Field(6.0, gt=0)
    """Divergence of an answer from the reference, in nats, the sum over its tokens, that it is moved towards."""
    horizon: float = Field(10000, gt=0)
    """Answers over which it grows by a factor of e at most ⅕; fewer move it faster."""


class PPO(RolloutPhase):
    """Draws answers, and makes tokens more probable after which they turned out better than a value function expected;
    a pull to the reference is part of the reward of each token."""

    kind: Literal["ppo"] = "ppo"
    predicts: ClassVar[str] = VALUED
    usual_lr: ClassVar[float | None] = 3e-6
    drops: ClassVar[bool] = False
    in_float64: ClassVar[tuple[str, ...]] = (*RolloutPhase.in_float64, "gamma", "lam")
    prompts_per_rollout: int = Field(64, gt=0, le=1 << 20)
    """Prompts that are answered before the next steps."""
    answers_per_prompt: int = Field(1, gt=0, le=1 << 16)
    """Answers that are drawn to each."""
    epochs_per_rollout: int = Field(4, gt=0, le=1 << 16)
    """How often a rollout is learned from."""
    kl_coefficient: float = Field(0.05, ge=0)
    """What the divergence of each token from the reference takes from its reward; with `adaptive_kl`, at first."""
    adaptive_kl: AdaptiveKL | None = None
    """How the coefficient follows the divergence, such as {target: 6, horizon: 10000}; null: it stays as it is."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """How the divergence of a token is estimated from its two log-probabilities (Schulman 2020): k1, their difference;
    k3, which is never negative, and spreads less where both are near to each other."""
    gamma: float = Field(1.0, ge=0, le=1)
    """What a reward counts one token earlier."""
    lam: float = Field(0.95, ge=0, le=1)
    """How far advantages rely on rewards that came (1) rather than on values that were expected (0): λ of generalised
    advantage estimation (Schulman et al. 2015, arXiv:1506.02438)."""
    whiten_advantages: bool = True
    """Whether advantages of a rollout are shifted to mean 0 and divided by their standard deviation."""
    whiten_rewards: bool = False
    """Whether rewards of tokens are divided by the standard deviation of those of the rollout."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "ppo")] = Field(
        default_factory=objectives.TABLE.default("ppo")
    )
    """What is minimised: which ratios are clipped, the value function, a bonus for entropy."""

    def added_heads(self, base: Mapping[str, Head], sees_ahead: bool) -> Mapping[str, Head]:
        """Beside its own, one for the values where the model has none."""
        missing = [name for name in self.objective.beside if name not in {**base, **self.heads}]
        return {**self.heads, **{name: Scalar(bias=True) for name in missing}}

    def together(self) -> Iterator[Problem]:
        yield from super().together()
        if self.adaptive_kl is not None and not self.kl_coefficient:
            yield Problem(
                "a coefficient of 0 stays 0, whatever it is multiplied with",
                ("kl_coefficient",),
                "kl_coefficient: 0.05, which `adaptive_kl` then moves, or no `adaptive_kl`",
                "the divergence would never be held to its target",
            )
        value = getattr(self.objective, "value", None)
        if value is not None and value.body is None and value.lr_multiplier != 1:
            yield Problem(
                "`lr_multiplier` belongs to values that have a `body` of their own",
                ("objective", "value", "lr_multiplier"),
                f"in the phase, `lr_multipliers: {{{value.head}_head.*: {value.lr_multiplier:g}}}` for a head of the "
                "policy's, or a `body`",
                "it would do nothing",
            )
