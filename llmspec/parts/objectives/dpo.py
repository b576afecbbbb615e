"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and its kinds.

Shape letters: B rows, K texts of a row at most, P = B·K/2 pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims
from llmspec.parts.objectives.answers import (
    LOGPS_OF,
    REFERENCE_LOGPS,
    REWARDS,
    AnswerObjective,
    answer_nats,
    log_probabilities,
    log_sigmoid,
    means,
    sides,
    told,
)
from llmspec.parts.objectives.base import Loss, Outputs

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor


class DPO(AnswerObjective):
    """Loss of pairs of answers, chosen and rejected: how much more the policy prefers the chosen one than a reference
    does. With `reference_free`, `length_normalised` and `target_margin` it is SimPO (Meng et al. 2024,
    arXiv:2405.14734)."""

    kind: Literal["dpo"] = "dpo"
    formula: ClassVar[str] = (
        "mean over the pairs of −log σ(beta · (log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)))"
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "beta": ("no pair would count", "every pair would be right or infinitely wrong"),
        "label_smoothing": ("nothing would be smoothed", "no preference would be left"),
        "target_margin": ("there would be no margin", "no margin would ever be reached"),
        "rpo_alpha": ("the chosen answers would not be learned for themselves", "nothing but them would be learned"),
    }
    counted: ClassVar[tuple[str, ...]] = (*REWARDS, *LOGPS_OF, "nll_loss")
    unit: ClassVar[str] = "nats/pair"
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """sigmoid: −log σ(beta · Δ), Δ the difference of the log-ratios of both answers; hinge: max(0, 1 − beta · Δ) (SLiC;
    Zhao et al. 2023, arXiv:2305.10425); ipo: (Δ − 1 / (2 · beta))² (Azar et al. 2023, arXiv:2310.12036); robust: made
    unbiased for labels of which `label_smoothing` are turned round (Chowdhury et al. 2024, arXiv:2403.00409)."""
    beta: float = Field(0.1, gt=0, le=1e4)
    """How close to the reference the policy stays: what log-ratios are multiplied by; larger is closer."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the pairs that are held to be the wrong way round (conservative DPO; Mitchell 2023), of the losses
    sigmoid and robust."""
    length_normalised: bool | None = None
    """Whether an answer's log-ratio is divided by its tokens; null: by ipo, as its authors do, and by no other loss."""
    reference_free: bool = False
    """Whether the policy's own log-probabilities are compared, without a reference."""
    target_margin: float = Field(0.0, ge=0, le=1e4)
    """How much better a chosen answer is to be, taken off beta · Δ: SimPO's gamma, of the losses sigmoid and robust."""
    rpo_alpha: float = Field(0.0, ge=0, le=1e4)
    """Weight of the cross entropy of the chosen answers, per token, which is added to the loss (RPO; Pang et al. 2024,
    arXiv:2404.19733)."""

    @model_validator(mode="after")
    def _of_this_loss(self) -> DPO:
        for name in ("label_smoothing", "target_margin"):
            if getattr(self, name) and self.loss not in ("sigmoid", "robust"):
                raise ValueError(f"`{name}` does nothing with `loss: {self.loss}`; leave it out, or `loss: sigmoid`")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("`loss: robust` without `label_smoothing` is `loss: sigmoid`; write one of the two")
        return self

    @property
    def compares(self) -> bool:
        return not self.reference_free

    @property
    def normalised(self) -> bool:
        """Whether log-ratios are divided by the tokens of their answers."""
        return self.loss == "ipo" if self.length_normalised is None else self.length_normalised

    def of_margins(self, x: Tensor) -> Tensor:
        """The loss of each pair of differences of scores, not yet times beta."""
        if self.loss == "hinge":
            return (1 - self.beta * x).relu()
        if self.loss == "ipo":
            return (x - 1 / (2 * self.beta)).square()
        share, z = self.label_smoothing, self.beta * x - self.target_margin
        if not share:
            return -log_sigmoid(z)
        right, wrong = -log_sigmoid(z), -log_sigmoid(-z)
        if self.loss == "robust":
            return ((1 - share) * right - share * wrong) / (1 - 2 * share)
        return (1 - share) * right + share * wrong

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights_P = inputs["loss_weights"].reshape(-1)
            logps_BK, lengths_BK = log_probabilities(ops, outputs, inputs)
            ratios_BK = logps_BK - inputs[REFERENCE_LOGPS] if self.compares else logps_BK
            scores_BK = ratios_BK / lengths_BK.maximum(1) if self.normalised else ratios_BK
            better_P, worse_P = sides(scores_BK)
            whole = (self.of_margins(better_P - worse_P) * weights_P).sum()
            # As in TRL, rewards are of whole answers where there is a reference, and of what is compared without one.
            shown = ratios_BK if self.compares else scores_BK
            found = told(*sides(self.beta * shown), weights_P)
            for name, logps_P in zip(LOGPS_OF, sides(logps_BK.detach()), strict=True):
                found[name] = (logps_P * weights_P).sum()
            nats = answer_nats(sides(logps_BK)[0], sides(lengths_BK)[0], weights_P)
            found["nll_loss"] = nats.detach()
            whole = whole + self.rpo_alpha * nats if self.rpo_alpha else whole
            return {"loss": whole, **found}

        return loss

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """Means over the pairs: the loss, what answers are worth, how often the chosen one is worth more, how
        probable they are, and nats of a token of the chosen ones."""
        return means(sums, self.counted, self.unit)
