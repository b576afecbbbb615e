"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) with a value of each state.

B rows, T places of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, ElementwiseOps, Frozen
from llmspec.parts.objectives.base import VALUED, Loss, Outputs
from llmspec.parts.objectives.distillation import log_softmax
from llmspec.parts.objectives.policy import PolicyObjective, scaled_logits, token_logps

if TYPE_CHECKING:
    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor

VALUES = "values"


class ValueFunction(Frozen):
    """What is expected of an answer before each of its tokens: a head of the same model, and how it is trained."""

    head: str = "value"
    """The head that says it, which the phase adds where the model has none of that name."""
    shared: bool = True
    """Whether its gradient reaches the layers that it shares with the policy; if not, it learns from their states as
    they are."""
    coefficient: float = Field(0.1, gt=0)
    """What its loss, half the squared distance from the returns, is multiplied with."""
    clip_range: float | None = Field(0.2, gt=0)
    """How far a value moves from what it was when the answer was drawn until nothing more is gained by it; null: any
    way."""


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
    by_place: ClassVar[tuple[str, ...]] = ("answers", "old_logps", "advantages", "returns", "old_values")
    scalars: ClassVar[tuple[str, ...]] = ("inverse_temperature", "loss_scale")
    counted: ClassVar[tuple[str, ...]] = (
        "policy_loss",
        "value_loss",
        "approx_kl",
        "clip_low",
        "clip_high",
        "value_clip_fraction",
    )
    gathered: ClassVar[tuple[str, ...]] = (*PolicyObjective.gathered, VALUES)
    clip_range: float = Field(0.2, gt=0, lt=1)
    """How far the ratio of a token's new and old probability may lie from 1 until nothing more is gained by it."""
    value: ValueFunction = Field(default_factory=lambda: ValueFunction())
    """What is expected before each token, and how that is learned."""
    entropy_bonus: float = Field(0.0, ge=0)
    """What the entropy of the next token, in nats, is multiplied with and taken from the loss (Mnih et al. 2016,
    arXiv:1602.01783, section 4)."""

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        return 1 - self.clip_range, 1 + self.clip_range

    @property
    def beside(self) -> Mapping[str, bool]:
        return {self.value.head: self.value.shared}

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
            error_BT, held_BT = value_errors(values(ops, outputs.heads[value.head]), inputs, value.clip_range)
            policy_BT, error_BT = -bounded_BT * gain_BT * counts_BT, error_BT / 2
            losses_BT = policy_BT + value.coefficient * error_BT
            losses_BT = losses_BT if entropy_BT is None else losses_BT - bonus * entropy_BT
            return {
                "loss": (losses_BT * inputs["loss_weights"]).sum() * inputs["loss_scale"].reshape(()),
                "policy_loss": policy_BT.sum(),
                "value_loss": error_BT.sum(),
                "approx_kl": log_ratio_BT.square().sum() / 2,
                "clip_low": (below_BT * counts_BT).sum(),
                "clip_high": (above_BT * counts_BT).sum(),
                "value_clip_fraction": (held_BT * counts_BT).sum(),
            }

        return loss

    def measures(self, dims: Dims) -> Loss:
        plain = super().measures(dims)

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


def values(ops: Operations, outputs: Outputs) -> Tensor:
    """(B, T): the number of each state."""
    assert outputs.layer is not None, "the head has outputs"
    return ops.linear(outputs.features, outputs.layer).squeeze(-1)


def value_errors(values_BT: Tensor, inputs: Mapping[str, Tensor], bound: float | None) -> tuple[Tensor, Tensor]:
    """((B, T) squared distance of values from the returns, of those held near the old ones where that is larger;
    (B, T) whether it is). 0 where nothing counts."""
    counts_BT, returns_BT, old_BT = (inputs[name] for name in ("answers", "returns", "old_values"))
    plain_BT = ((values_BT - returns_BT) * counts_BT).square()
    if bound is None:
        return plain_BT, counts_BT * 0
    near_BT = (values_BT.detach() - old_BT).maximum(-bound).minimum(bound) + old_BT
    # Where the held value is the worse one it is a constant: it lies at the bound.
    near_BT = ((near_BT - returns_BT) * counts_BT).square()
    held_BT = near_BT > plain_BT
    return held_BT.where(near_BT, plain_BT), held_BT
