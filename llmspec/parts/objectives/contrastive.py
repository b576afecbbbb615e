"""Which texts of a pass belong together (InfoNCE: van den Oord et al. 2018, arXiv:1807.03748; in-batch negatives:
Henderson et al. 2017, arXiv:1705.00652, section 4.4).

Shape letters: B rows, K texts of a row at most, P = B·K/2 pairs, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import TOGETHER, Draw, Loss, Outputs
from llmspec.parts.objectives.documents import TOKENS_PER_DOCUMENT, DocumentObjective
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor

SIDES = 2
"""Texts of a pair: the anchor, then what belongs to it."""
OTHER, OWN = 1, 2
"""What an anchor is compared with: the counterpart of another pair, a negative, or its own one."""
FAR = -1e9
"""What a text that is no negative has instead of its similarity: its share of the softmax is 0."""
LEAST = 1e-12
"""Least square of a vector's length that it is divided by."""


class Contrastive(DocumentObjective):
    """Mean negative log-likelihood of each text's own counterpart among those of all pairs of the pass, by the cosines
    of their vectors, in nats. Gradient accumulation gives no further negatives: a pass compares its own texts alone."""

    kind: Literal["contrastive"] = "contrastive"
    formula: ClassVar[str] = "mean over the pairs of −log softmax_j(cos(anchor_i, positive_j) / temperature)[i]"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "temperature": ("similarities would be divided by 0", "all texts would be equally probable")
    }
    predicts: ClassVar[str] = TOGETHER
    counted: ClassVar[tuple[str, ...]] = ("right", "masked")
    gathered: ClassVar[tuple[str, ...]] = ("vectors",)
    unit: ClassVar[str] = "nats/pair"
    head: str = "embedding"
    """The head of the model that it trains; the phase adds it where there is none of that name."""
    temperature: float = Field(0.05, gt=0, le=1e3)
    """What the cosines are divided by: the smaller, the more the most similar negatives count."""
    symmetric: bool = False
    """Whether the anchor has to be found by its counterpart, too: the mean of both losses (Radford et al. 2021,
    arXiv:2103.00020, figure 3)."""

    def places(self, context: int) -> int:
        """A pair for each sixteen tokens, and at least one."""
        return SIDES * max(1, context // TOKENS_PER_DOCUMENT)

    def pairs(self, rows: int, context: int) -> int:
        """How many pairs a pass compares, at most."""
        return rows * self.places(context) // SIDES

    def wrong_head(self, head: Head) -> str:
        return super().wrong_head(head) or ("" if head.embeds else f"a head of kind {head.kind} gives no vector")

    def compared(self, rows: int, context: int) -> int:
        return self.pairs(rows, context) ** 2

    def document_inputs(self, rows: int, documents: int, head: Head) -> dict[str, InputSpec]:
        """Which texts of the pass each anchor is compared with, and which places hold a pair."""
        pairs = rows * documents // SIDES
        return {
            "candidates": InputSpec((pairs, pairs), "int32"),
            "loss_weights": InputSpec((rows, documents // SIDES), "float32"),
        }

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """`candidates` (P, P): OWN for an anchor's own counterpart, OTHER for those of other pairs. 0 at places without
        a pair, where both pairs have an equal text, and where the text is the anchor's own: it would be no negative."""
        import numpy as np

        rows, length = batch.tokens.shape
        anchor, other = numbered(batch, self.places(length)).reshape(-1, SIDES).T
        there = (anchor >= 0) & (other >= 0)
        alike = (anchor[:, None] == anchor) | (other[:, None] == other) | (anchor[:, None] == other)
        found = np.where(~alike & there[:, None] & there, OTHER, 0).astype(np.int32)
        np.fill_diagonal(found, OWN)
        weights = there.reshape(rows, -1).astype(np.float32)
        if batch.labels is not None:  # a batch of a benchmark has none
            weights *= batch.labels.weights[:, ::SIDES]
        return {"candidates": found, "loss_weights": weights}

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations for each number of a vector: over its length, and the gradient of that."""
        return ElementwiseOps(4, 8).times(vocab)

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights_P, candidates_PP = inputs["loss_weights"].reshape(-1), inputs["candidates"]
            pairs_P2D = outputs.features.reshape(-1, SIDES, outputs.features.shape[-1])
            # Where no pair is, vectors are zeros, whose length may be anything but small: 1.
            empty_P11 = (weights_P == 0).cast(weights_P.dtype).reshape(-1, 1, 1)
            lengths_P21 = (pairs_P2D.square().sum(-1, keepdim=True).maximum(LEAST) + empty_P11).sqrt()
            pairs_P2D = pairs_P2D / lengths_P21
            anchors_PD, others_PD = pairs_P2D[:, 0], pairs_P2D[:, 1]
            cosines_PP = ops.matmul(anchors_PD, others_PD, transpose_b=True)
            scores_PP = (candidates_PP > 0).where(cosines_PP / self.temperature, FAR)
            own_P = (candidates_PP == OWN).where(scores_PP, 0).sum(-1)
            losses_P = scores_PP.logsumexp(-1) - own_P
            if self.symmetric:
                losses_P = (losses_P + scores_PP.logsumexp(0) - own_P) / 2
            there_P = (weights_P > 0).cast(weights_P.dtype)
            masked_P = there_P.sum() - (candidates_PP > 0).sum(-1)
            return {
                "loss": (losses_P * weights_P).sum(),
                "right": ((scores_PP.max(-1) <= own_P) * weights_P).sum(),
                "masked": (masked_P * weights_P).sum(),
            }

        return loss

    def measures(self, dims: Dims) -> Loss:
        return lambda ops, outputs, inputs: {"vectors": outputs.features}


def numbered(batch: Any, most: int) -> np.ndarray:
    """(B, K) int64: the texts of a batch, equal ones with equal numbers; -1 where a row has no text more."""
    import numpy as np

    found, known = np.full((len(batch.tokens), most), -1, np.int64), dict[bytes, int]()
    for row, (tokens, documents) in enumerate(zip(batch.tokens, batch.documents, strict=True)):
        filled = int(batch.filled[row])
        begins = [0, *(np.flatnonzero(np.diff(documents[:filled])) + 1).tolist(), filled] if filled else [0]
        for i, (begin, end) in enumerate(pairwise(begins)):
            found[row, i] = known.setdefault(tokens[begin:end].tobytes(), len(known))
    return found
