"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300, section 4.1), and what others made of it.

B rows, T places of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, InputSpec
from llmspec.parts.objectives.base import Loss, Outputs
from llmspec.parts.objectives.policy import PolicyObjective, token_logps

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor

LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo"]


class GRPO(PolicyObjective):
    """Makes answers more probable that are better than others to the same prompt, no further than a bound on the ratio
    of probabilities; without a critic."""

    kind: Literal["grpo"] = "grpo"
    formula: ClassVar[str] = (
        "−mean of min(r·A, clip(r, 1 − clip_low, 1 + clip_high)·A) + kl_coefficient · (e^d − d − 1), "
        "r = π(token) / π_drawn(token), d = log π_reference(token) − log π(token)"
    )
    in_float64: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high")
    counted: ClassVar[tuple[str, ...]] = ("kl", "clip_low", "clip_high")
    clip_low: float = Field(0.2, ge=0, lt=1)
    """How far below 1 the ratio still counts (TRL's epsilon)."""
    clip_high: float = Field(0.2, ge=0, le=100)
    """How far above 1 it still counts; 0.28 in DAPO (Yu et al. 2025, arXiv:2503.14476, section 3.1)."""
    loss_type: LossType = "dapo"
    """What losses of tokens are divided by: grpo, the length of their answer, and the answers of a step; dr_grpo,
    `max_tokens` and the answers (Liu et al. 2025, arXiv:2503.20783); dapo, the tokens that a step has on average in its
    rollout; bnpo, those that it has."""
    importance_ratio: Literal["token", "sequence"] = "token"
    """Whether each token has a ratio, or each answer one, the geometric mean of its tokens' (GSPO; Zheng et al. 2025,
    arXiv:2507.18071)."""

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        return 1 - self.clip_low, 1 + self.clip_high

    def ratios(self, changes: Sequence[float]) -> list[float]:
        if self.importance_ratio == "token":
            return super().ratios(changes)
        return super().ratios([sum(changes) / max(1, len(changes))] * len(changes))

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """Beside what a policy reads, for a ratio of answers: whose each place is, and 1 over its answer's length."""
        found = super().inputs(batch, context)
        if self.importance_ratio == "sequence":
            shape = (batch, context)
            found |= {"answer": InputSpec(shape, "int32"), "answer_share": InputSpec(shape, "float32")}
        return found

    def build(self, dims: Dims) -> Loss:
        low, high, by_answer = 1 - self.clip_low, 1 + self.clip_high, self.importance_ratio == "sequence"

        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            counts_BT, advantages_BT = inputs["answers"], inputs["advantages"]
            logps_BT = token_logps(ops, outputs, inputs)
            # What does not count may lie anywhere: it is taken out before an exponential makes it infinite.
            log_ratio_BT = (logps_BT - inputs["old_logps"]) * counts_BT
            apart_BT = (inputs["reference_logps"] - logps_BT) * counts_BT
            shares_BT = counts_BT
            if by_answer:
                answer_BT, share_BT = inputs["answer"], inputs["answer_share"]
                same_BTT = (answer_BT.unsqueeze(2) == answer_BT.unsqueeze(1)).float()
                log_ratio_BT = (same_BTT * (log_ratio_BT * share_BT).unsqueeze(1)).sum(-1) * counts_BT
                shares_BT = share_BT
            ratio_BT = log_ratio_BT.exp()
            below_BT = (ratio_BT < low) * (advantages_BT < 0)
            above_BT = (ratio_BT > high) * (advantages_BT > 0)
            bounded_BT = above_BT.where(high, below_BT.where(low, ratio_BT))
            kl_BT = apart_BT.exp() - apart_BT - 1
            losses_BT = kl_BT * inputs["kl_coefficient"].reshape(1, 1) - bounded_BT * advantages_BT
            return {
                "loss": (losses_BT * inputs["loss_weights"]).sum() * inputs["loss_scale"].reshape(()),
                "kl": (kl_BT * counts_BT).sum(),
                "clip_low": (below_BT.float() * shares_BT).sum(),
                "clip_high": (above_BT.float() * shares_BT).sum(),
            }

        return loss
