"""Which of the answers to a prompt is better (Bradley & Terry 1952; of lists: Plackett 1975, Luce 1959; as the loss of
a reward model: Ouyang et al. 2022, arXiv:2203.02155, equation 1).

Shape letters: B rows, K texts of a row at most, N = B·K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import Draw, Loss, Outputs
from llmspec.parts.objectives.documents import TOKENS_PER_DOCUMENT, DocumentObjective
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor

RANKED = "which answers are better"
"""What is predicted."""
FAR = -1e9
"""What stands for the reward of a text that a text is not compared with: its share of the softmax is 0."""


class PreferenceRanking(DocumentObjective):
    """Mean negative log-likelihood of each choice, in nats: that an answer is better than all those of its record that
    rank below it. A pair is one choice (Bradley–Terry), a list of n answers n − 1 of them (Plackett–Luce); answers of
    one rank are not compared with each other."""

    kind: Literal["preference_ranking"] = "preference_ranking"
    formula: ClassVar[str] = (
        "mean over the choices of −log (exp r_i / (exp r_i + Σ_j exp(r_j + margin))), j the answers that rank below i; "
        "of a pair −log σ(r_chosen − r_rejected − margin)"
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "center_rewards_coefficient": ("rewards would not be centred", "nothing but their mean would be learned")
    }
    predicts: ClassVar[str] = RANKED
    counted: ClassVar[tuple[str, ...]] = ("accuracy", "margin")
    gathered: ClassVar[tuple[str, ...]] = ("outputs",)
    unit: ClassVar[str] = "nats/choice"
    head: str = "reward"
    """The head of the model that it trains; the phase adds it where there is none of that name."""
    center_rewards_coefficient: float = Field(0.0, ge=0, le=1e6)
    """Weight of the square of the sum of both rewards of a pair, which holds rewards near 0 on average (Eisenstein et
    al. 2023, arXiv:2312.09244); of a longer list, of twice the mean of the answers of a choice. 0.01 is usual."""

    def places(self, context: int) -> int:
        """A text for each sixteen tokens, and at least a pair."""
        return 2 * max(1, context // (2 * TOKENS_PER_DOCUMENT))

    def wrong_head(self, head: Head) -> str:
        if wrong := super().wrong_head(head):
            return wrong
        return "" if head.kind == "score" else f"a head of kind {head.kind} gives no number"

    def document_inputs(self, rows: int, documents: int, head: Head) -> dict[str, InputSpec]:
        """Which texts rank below each text, by how much it is to be better than those, and what its choice counts."""
        shape = (rows, documents)
        return {
            "below": InputSpec((*shape, documents), "int32"),
            "margins": InputSpec(shape, "float32"),
            "loss_weights": InputSpec(shape, "float32"),
        }

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """`below` (B, K, K): 1 at j of text i where both are of one record and j ranks below i. A choice counts what
        its record counts, and a text that none ranks below makes none."""
        import numpy as np

        rows, K = len(batch.tokens), self.places(batch.tokens.shape[1])
        if batch.labels is not None:
            labels = batch.labels
            records, ranks, weights, margins = labels.records, labels.targets, labels.weights, labels.margins
        else:  # a batch of a benchmark: each two texts of a row are a pair
            places = np.arange(batch.tokens.shape[1])
            texts = np.where(places < batch.filled[:, None], batch.documents, -1).max(1) + 1
            nth = np.broadcast_to(np.arange(K), (rows, K))
            there = nth < (texts // 2 * 2)[:, None]
            records, ranks, weights = np.where(there, nth // 2, -1), nth % 2, there.astype(np.float32)
            margins = np.zeros((rows, K), np.float32)
        same = (records[:, :, None] == records[:, None, :]) & (records[:, :, None] >= 0)
        below = same & (ranks[:, :, None] < ranks[:, None, :])
        chooses = below.any(-1)
        return {
            "below": below.astype(np.int32),
            "margins": np.where(ranks == 0, margins, 0).astype(np.float32),
            "loss_weights": (weights * chooses).astype(np.float32),
        }

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations for each text that a text is compared with."""
        return ElementwiseOps(8, 8)

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights_BK, below_BKK = inputs["loss_weights"], inputs["below"] > 0
            rewards_BK = self._rewards(ops, outputs).reshape(*weights_BK.shape)
            own_BK1, others_B1K = rewards_BK.unsqueeze(-1), rewards_BK.unsqueeze(1)
            against_BKK = below_BKK.where(others_B1K + inputs["margins"].unsqueeze(-1), FAR)
            losses_BK = own_BK1.cat(against_BKK, dim=-1).logsumexp(-1) - rewards_BK
            count_BK = below_BKK.cast(rewards_BK.dtype).sum(-1)
            sums_BK = below_BKK.where(others_B1K, 0).sum(-1)
            if coefficient := self.center_rewards_coefficient:
                centre_BK = (rewards_BK + sums_BK) * 2 / (count_BK + 1)
                losses_BK = losses_BK + coefficient * centre_BK.square()
            best_BK = below_BKK.where(others_B1K, FAR).max(-1)
            return {
                "loss": (losses_BK * weights_BK).sum(),
                "accuracy": ((rewards_BK > best_BK) * weights_BK).sum(),
                "margin": ((rewards_BK - sums_BK / count_BK.maximum(1)) * weights_BK).sum(),
            }

        return loss

    def measures(self, dims: Dims) -> Loss:
        return lambda ops, outputs, inputs: {"outputs": self._rewards(ops, outputs)}

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """The loss, how often the better answer has the higher reward, and by how much it is higher on average."""
        weights = max(1.0, sums["loss_weights"])
        return (
            *super().metrics(sums, characters),
            Metric("accuracy", sums["accuracy"] / weights, better="higher"),
            Metric("margin", sums["margin"] / weights),
        )

    def _rewards(self, ops: Operations, outputs: Outputs) -> Tensor:
        """(N,) of each text."""
        assert outputs.layer is not None, "the head has an output"
        return ops.linear(outputs.features, outputs.layer).reshape(-1)
