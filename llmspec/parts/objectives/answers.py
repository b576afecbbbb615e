"""What objectives have in common that compare log-probabilities of whole answers.

Shape letters: B rows, T tokens, K texts of a row at most, each a prompt with its answer; P = B·K/2 pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import PREFERRED, Draw, Loss, Outputs
from llmspec.parts.objectives.cross_entropy import CrossEntropy, token_losses
from llmspec.parts.objectives.documents import TOKENS_PER_DOCUMENT, DocumentObjective
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor

SIDES = 2
"""Texts of a pair: the chosen one, then the rejected one."""
LOGPS, REFERENCE_LOGPS = "logps", "reference_logps"
LOGPS_OF = ("logps/chosen", "logps/rejected")


class AnswerObjective(DocumentObjective):
    """A loss of the log-probabilities of answers, each the sum of those of its tokens."""

    sums_tokens: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("causal",)
    predicts: ClassVar[str] = PREFERRED
    gathered: ClassVar[tuple[str, ...]] = (LOGPS,)
    in_pairs: ClassVar[bool] = True
    """Whether texts 2i and 2i + 1 of a row are one record's chosen and rejected answer."""
    head: str = "lm"
    """The head of the model that it trains: one that tells the next token."""

    @property
    def compares(self) -> bool:
        """Whether its loss reads what a reference holds of each answer."""
        return True

    def places(self, context: int) -> int:
        """How many texts a row has room for: an even number, and at least a pair."""
        return SIDES * max(1, context // (SIDES * TOKENS_PER_DOCUMENT))

    def wrong_head(self, head: Head) -> str:
        return "" if head.generates else f"a head of kind {head.kind} says nothing of the next token"

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """The token after each one."""
        return {"targets": InputSpec((batch, context), "int32", ids=True)}

    def document_inputs(self, rows: int, documents: int, head: Head) -> dict[str, InputSpec]:
        """What each pair (or text) counts, and the reference's log-probability of each text."""
        counted = documents // SIDES if self.in_pairs else documents
        found = {"loss_weights": InputSpec((rows, counted), "float32")}
        return found | ({REFERENCE_LOGPS: InputSpec((rows, documents), "float32")} if self.compares else {})

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """The reference's log-probabilities are zeros here: a task that has computed them puts them in."""
        import numpy as np

        weights = batch.labels.weights
        found = {"targets": batch.targets, "loss_weights": weights[:, ::SIDES].copy() if self.in_pairs else weights}
        return found | ({REFERENCE_LOGPS: np.zeros(weights.shape, np.float32)} if self.compares else {})

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: the softmax over the vocabulary, and its gradient."""
        return CrossEntropy().elementwise(vocab)

    def measures(self, dims: Dims) -> Loss:
        return lambda ops, outputs, inputs: {LOGPS: log_probabilities(ops, outputs, inputs)[0]}


def log_probabilities(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """((B, K) log-probability of each answer given what stands before it, in nats; (B, K) its tokens).

    Of a place without a text both are 0.
    """
    members_BKT = inputs["members"]
    rows, _, tokens = members_BKT.shape
    nats_B1T = token_losses(ops, outputs, inputs["targets"].reshape(-1)).reshape(rows, 1, tokens)
    return -(members_BKT * nats_B1T).sum(-1), members_BKT.sum(-1)


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + e^−x)), and its gradient 1/2 at 0, where a policy is its own reference."""
    below = x < 0
    return below.where(x, 0.0) - (1 + below.where(x, -x).exp()).log()


def answer_nats(logps_P: Tensor, lengths_P: Tensor, weights_P: Tensor) -> Tensor:
    """(): nats of a token of all answers (P,) together, each token as much as its answer's weight; times the sum of the
    weights, so that it is a pass's part of a step's mean."""
    tokens = (lengths_P * weights_P).sum()
    return -(logps_P * weights_P).sum() / (tokens + (tokens == 0)) * weights_P.sum()


def sides(x_BK: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) of the chosen answers and (P,) of the rejected ones."""
    x_P2 = x_BK.reshape(-1, SIDES)
    return x_P2[:, 0], x_P2[:, 1]


def told(chosen: Tensor, rejected: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Sums over the pairs (P,) of what their answers are worth, by the names that TRL gives them."""
    chosen, rejected = chosen.detach(), rejected.detach()
    return {
        "rewards/chosen": (chosen * weights).sum(),
        "rewards/rejected": (rejected * weights).sum(),
        "rewards/margins": ((chosen - rejected) * weights).sum(),
        "rewards/accuracies": ((chosen > rejected) * weights).sum(),
    }


REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
BETTER = {"rewards/margins": "higher", "rewards/accuracies": "higher", "nll_loss": "lower"}
"""Which of what is told says how good a policy is."""


def means(sums: Mapping[str, float], names: tuple[str, ...], unit: str) -> tuple[Metric, ...]:
    """The mean loss of a pair or text, and the means of what else is counted."""
    whole = max(1.0, sums["loss_weights"])
    loss = Metric("loss", sums["loss"] / whole, unit, better="lower")
    return (loss, *(Metric(name, sums[name] / whole, better=BETTER.get(name, "")) for name in names))  # type: ignore[arg-type]
