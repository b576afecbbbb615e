"""Odds ratio preference optimisation (Hong, Lee & Thorne 2024, arXiv:2403.07691).

Shape letters: B rows, K texts of a row at most, P = B·K/2 pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims
from llmspec.parts.objectives.answers import (
    LOGPS_OF,
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

SURE = -1e-7
"""Log-probability of a token, on average, that is as high as it is taken to be: at 0 odds would be infinite."""
TERMS = 10
"""Of the series of 1 − e^x, by which its relative error is below that of float32 for x above −ln 2."""
HALF = -0.6931471805599453


class ORPO(AnswerObjective):
    """Cross entropy of the chosen answers, and the odds ratio of both answers of a pair, without a reference: one phase
    in place of two."""

    kind: Literal["orpo"] = "orpo"
    formula: ClassVar[str] = (
        "nats per token of the chosen answers − beta · mean over the pairs of log σ(log odds(chosen)/odds(rejected)), "
        "odds = p / (1 − p), p the geometric mean of an answer's probabilities"
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "beta": ("the rejected answers would not count", "the chosen answers would not be learned for themselves")
    }
    counted: ClassVar[tuple[str, ...]] = (*REWARDS, *LOGPS_OF, "nll_loss", "log_odds_ratio", "log_odds_chosen")
    unit: ClassVar[str] = "nats/pair"
    beta: float = Field(0.1, gt=0, le=1e4)
    """Weight of the odds ratio: the paper's lambda, which TRL names beta."""

    @property
    def compares(self) -> bool:
        return False

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights_P = inputs["loss_weights"].reshape(-1)
            logps_BK, lengths_BK = log_probabilities(ops, outputs, inputs)
            nats = answer_nats(sides(logps_BK)[0], sides(lengths_BK)[0], weights_P)
            # A place without a text has any odds that are finite: its pair counts nothing.
            there_BK = lengths_BK > 0
            mean_BK = there_BK.where(logps_BK / lengths_BK.maximum(1), -1.0).minimum(SURE)
            better_P, worse_P = sides(mean_BK)
            odds_P = (better_P - worse_P) - (log_rest(better_P) - log_rest(worse_P))
            ratio = (log_sigmoid(odds_P) * weights_P).sum()
            found = told(self.beta * better_P, self.beta * worse_P, weights_P)
            for name, value_P in zip(LOGPS_OF, (better_P, worse_P), strict=True):
                found[name] = (value_P.detach() * weights_P).sum()
            found |= {"nll_loss": nats.detach(), "log_odds_ratio": ratio.detach()}
            found["log_odds_chosen"] = (odds_P.detach() * weights_P).sum()
            return {"loss": nats - self.beta * ratio, **found}

        return loss

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """Means over the pairs, as TRL names them; `logps` are those of a token on average."""
        return means(sums, self.counted, self.unit)


def log_rest(x: Tensor) -> Tensor:
    """log(1 − e^x) of log-probabilities x < 0, without cancellation near 0."""
    near = x > HALF
    inside, outside = near.where(x, -1.0), near.where(-1.0, x)
    series = 0 * inside + 1.0
    for n in range(TERMS, 1, -1):
        series = 1 + inside / n * series
    return near.where((-inside * near.where(series, 1.0)).log(), (1 - outside.exp()).log())
