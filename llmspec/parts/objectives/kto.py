"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): answers that were good or bad, each by
itself.

Shape letters: B rows, K texts of a row at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, InputSpec
from llmspec.parts.objectives.answers import BETTER, REFERENCE_LOGPS, AnswerObjective, log_probabilities
from llmspec.parts.objectives.base import JUDGED, Draw, Loss, Outputs
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor

KL = "kl"
"""Input (1,): how far the policy is from its reference, in nats an answer, by answers to other prompts."""
GOOD, BAD = ("rewards/chosen", "logps/chosen"), ("rewards/rejected", "logps/rejected")
"""What is told of answers that were good, and of those that were bad, by TRL's names."""


class KTO(AnswerObjective):
    """Loss of single answers, good or bad: how much more probable than by a reference they are, beside how much more
    probable any answer has become. The latter, the KL term, is that of the answers of a pass, each behind the prompt
    of another one; no gradient goes through it."""

    kind: Literal["kto"] = "kto"
    formula: ClassVar[str] = (
        "mean over the answers of weight · (1 − σ(±beta · (log π(answer)/π_ref(answer) − max(0, KL)))), + if it is good"
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "beta": ("no answer would count", "every answer would be right or wrong beyond repair"),
        "desirable_weight": ("good answers would count for nothing", "nothing but good answers would count"),
        "undesirable_weight": ("bad answers would count for nothing", "nothing but bad answers would count"),
    }
    predicts: ClassVar[str] = JUDGED
    in_pairs: ClassVar[bool] = False
    counted: ClassVar[tuple[str, ...]] = (*GOOD, *BAD, "desirable", KL)
    unit: ClassVar[str] = "value/answer"
    beta: float = Field(0.1, gt=0, le=1e4)
    """How close to the reference the policy stays: what log-ratios are multiplied by; larger is closer."""
    desirable_weight: float = Field(1.0, gt=0, le=1e4)
    """What good answers count; with n of them and m bad ones, the paper wants (n · desirable_weight) / (m ·
    undesirable_weight) between 1 and 4/3."""
    undesirable_weight: float = Field(1.0, gt=0, le=1e4)
    """What bad answers count."""

    def document_inputs(self, rows: int, documents: int, head: Head) -> dict[str, InputSpec]:
        """And which answers were good, and the KL term."""
        found = super().document_inputs(rows, documents, head)
        return {**found, "desirable": InputSpec((rows, documents), "float32"), KL: InputSpec((1,), "float32")}

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """The KL term is 0 here, as before the first step: a task that has estimated it puts it in."""
        import numpy as np

        good = (batch.labels.targets > 0).astype(np.float32)
        return {**super().arrays(batch, draw, specials), "desirable": good, KL: np.zeros(1, np.float32)}

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights_BK, good_BK, kl = inputs["loss_weights"], inputs["desirable"], inputs[KL].maximum(0)
            logps_BK, _ = log_probabilities(ops, outputs, inputs)
            ratios_BK = logps_BK - inputs[REFERENCE_LOGPS]
            turned_BK = (2 * good_BK - 1) * (ratios_BK - kl)
            counts_BK = self.undesirable_weight + (self.desirable_weight - self.undesirable_weight) * good_BK
            losses_BK = counts_BK * (1 - (self.beta * turned_BK).sigmoid())
            good_BK, bad_BK = good_BK * weights_BK, (1 - good_BK) * weights_BK
            rewards_BK, logps_BK = (self.beta * ratios_BK).detach(), logps_BK.detach()
            return {
                "loss": (losses_BK * weights_BK).sum(),
                GOOD[0]: (rewards_BK * good_BK).sum(),
                GOOD[1]: (logps_BK * good_BK).sum(),
                BAD[0]: (rewards_BK * bad_BK).sum(),
                BAD[1]: (logps_BK * bad_BK).sum(),
                "desirable": good_BK.sum(),
                KL: (kl * weights_BK).sum(),
            }

        return loss

    def told(self, sums: Mapping[str, float], whole: float) -> tuple[Metric, ...]:
        """What sums over answers that count `whole` together come to: means over the good ones, over the bad ones,
        and over all."""
        good = sums["desirable"]
        parts = {**dict.fromkeys(GOOD, good), **dict.fromkeys(BAD, whole - good)}
        found = {name: sums[name] / of for name, of in parts.items() if of > 1e-6 * whole}
        if GOOD[0] in found and BAD[0] in found:
            found["rewards/margins"] = found[GOOD[0]] - found[BAD[0]]
        found[KL] = sums[KL] / whole
        loss = Metric("loss", sums["loss"] / whole, self.unit, better="lower")
        return (loss, *(Metric(name, value, better=BETTER.get(name, "")) for name, value in found.items()))  # type: ignore[arg-type]

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """The loss, and what good and bad answers are worth on average; what there is none of is left out."""
        return self.told(sums, max(1.0, sums["loss_weights"]))
