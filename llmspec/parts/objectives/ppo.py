"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) with a value of each state.

B rows, T places of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.objectives.base import VALUED, Loss, Outputs
from llmspec.parts.objectives.distillation import log_softmax
from llmspec.parts.objectives.policy import PolicyObjective, scaled_logits, token_logps
from llmspec.parts.objectives.value_function import CRITIC, VALUE_SUMS, VALUES, ValueFunction, value_errors, values
from llmspec.parts.others import Other

if TYPE_CHECKING:
    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor

CRITICS = ("policy", "reward_model")
"""Sorts of artifacts whose body may say values."""


class PPO(PolicyObjective):
    """Makes tokens more probable that turned out better than expected, no further than a bound on the ratio of
    probabilities, and learns what to expect."""

    kind: Literal["ppo"] = "ppo"
    predicts: ClassVar[str] = VALUED
    formula: ClassVar[str] = (
        "mean over the drawn tokens of −min(r·A, clip(r, 1 ± clip_range)·A) + coefficient · ½ · "
        "max((V − R)², (clip(V, V_drawn ± clip_range) − R)²) − entropy_bonus · H, r = π(token) / π_drawn(token)"
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "clip_range": ("every ratio would be clipped", "no token that becomes less probable would be clipped"),
        "entropy_bonus": ("entropy would have no weight", "the reward would have no weight"),
    }
    scalars: ClassVar[tuple[str, ...]] = ("inverse_temperature", "loss_scale")
    clip_range: float = Field(0.2, gt=0, lt=1)
    """How far the ratio of a token's new and old probability may lie from 1 until nothing more is gained by it."""
    value: ValueFunction = Field(default_factory=lambda: ValueFunction())
    """What is expected before each token, and how that is learned."""
    entropy_bonus: float = Field(0.0, ge=0)
    """What the entropy of the next token, in nats, is multiplied with and taken from the loss (Mnih et al. 2016,
    arXiv:1602.01783, section 4)."""

    @property
    def by_place(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("answers", "old_logps", "advantages", *(() if self.value.body else ("returns", "old_values")))

    @property
    def counted(self) -> tuple[str, ...]:  # type: ignore[override]
        own = ("policy_loss", "approx_kl", "clip_low", "clip_high")
        return own if self.value.body else (own[0], VALUE_SUMS[0], *own[1:], VALUE_SUMS[1])

    @property
    def gathered(self) -> tuple[str, ...]:  # type: ignore[override]
        found = PolicyObjective.gathered
        return found if self.value.body else (*found, VALUES)

    def others(self) -> tuple[Other, ...]:
        body = self.value.body
        return (Other(CRITIC, ("value", "body"), body, CRITICS, once=True, body=True),) if body else ()

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        return 1 - self.clip_range, 1 + self.clip_range

    @property
    def beside(self) -> Mapping[str, bool]:
        return {} if self.value.body else {self.value.head: self.value.shared}

    def wrong_beside(self, head: Head) -> str:
        return "" if head.kind == "scalar" else f"a head of kind {head.kind} gives no single number for each token"

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: the softmax over the vocabulary with its gradient, and those of the entropy."""
        return super().elementwise(vocab).plus(ElementwiseOps(3, 5).times(vocab if self.entropy_bonus else 0))

    def build(self, dims: Dims) -> Loss:
        value, bonus, low, high = self.value, self.entropy_bonus, 1 - self.clip_range, 1 + self.clip_range

        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            counts_BT, gain_BT = inputs["answers"], inputs["advantages"]
            entropy_BT = None
            if bonus:
                logps_BT, entropy_BT = with_entropy(ops, outputs, inputs)
            else:
                logps_BT = token_logps(ops, outputs, inputs)
            # What does not count may lie anywhere: it is taken out before an exponential makes it infinite.
            log_ratio_BT = (logps_BT - inputs["old_logps"]) * counts_BT
            ratio_BT = log_ratio_BT.exp()
            below_BT, above_BT = (ratio_BT < low) * (gain_BT < 0), (ratio_BT > high) * (gain_BT > 0)
            bounded_BT = above_BT.where(high, below_BT.where(low, ratio_BT))
            losses_BT = policy_BT = -bounded_BT * gain_BT * counts_BT
            told: dict[str, Tensor] = {}
            if not value.body:
                error_BT, held_BT = value_errors(values(ops, outputs.heads[value.head]), inputs, value.clip_range)
                error_BT = error_BT / 2
                losses_BT = policy_BT + value.coefficient * error_BT
                told = dict(zip(VALUE_SUMS, (error_BT.sum(), (held_BT * counts_BT).sum()), strict=True))
            losses_BT = losses_BT if entropy_BT is None else losses_BT - bonus * entropy_BT
            return {
                "loss": (losses_BT * inputs["loss_weights"]).sum() * inputs["loss_scale"].reshape(()),
                "policy_loss": policy_BT.sum(),
                "approx_kl": log_ratio_BT.square().sum() / 2,
                "clip_low": (below_BT * counts_BT).sum(),
                "clip_high": (above_BT * counts_BT).sum(),
                **told,
            }

        return loss

    def measures(self, dims: Dims) -> Loss:
        plain = super().measures(dims)

        if self.value.body:
            return plain

        def found(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {**plain(ops, outputs, inputs), VALUES: values(ops, outputs.heads[self.value.head])}

        return found

    @property
    def logit_arrays(self) -> float:  # type: ignore[override]
        """With a bonus for entropy, logits, log-probabilities and probabilities are there with the gradient."""
        return 3.3 if self.entropy_bonus else 0.0


def with_entropy(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """((B, T) log-probability of each target, (B, T) entropy of what it was drawn from), in nats."""
    targets_BT = inputs["targets"]
    logs_NV = log_softmax(scaled_logits(ops, outputs, inputs["inverse_temperature"]), 1.0)
    logps_N1 = logs_NV.gather(-1, targets_BT.reshape(-1, 1))
    return logps_N1.reshape(*targets_BT.shape), -(logs_NV.exp() * logs_NV).sum(-1).reshape(*targets_BT.shape)
