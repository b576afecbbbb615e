"""Cross entropy of the tag of each word of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import TAGS, Draw, Loss, Objective, Outputs
from llmspec.parts.objectives.classification import label_losses, logits_of
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor


class Tagging(Objective):
    """Mean negative log-likelihood of each word's tag, in nats, which the word's first token tells; its other tokens
    do not count, and neither do special ones."""

    kind: Literal["tagging"] = "tagging"
    formula: ClassVar[str] = "mean over the words, weighted, of −log softmax(logits)[tag]"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "label_smoothing": ("nothing would be smoothed", "the tags themselves would count for nothing")
    }
    predicts: ClassVar[str] = TAGS
    gathered: ClassVar[tuple[str, ...]] = ("logits",)
    unit: ClassVar[str] = "nats/word"
    logit_arrays: ClassVar[float] = 3.0
    head: str = "tokens"
    """The head of the model that it trains; the phase adds it where there is none of that name."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target spread evenly over the tags (Szegedy et al. 2016, section 7)."""

    def in_validation(self) -> Tagging:
        return self.model_copy(update={"label_smoothing": 0.0})

    @property
    def reads_whole(self) -> bool:
        return True

    def wrong_head(self, head: Head) -> str:
        return "" if head.kind == "tokens" else f"a head of kind {head.kind} gives no logits of tags for every token"

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """The tag of the word that begins at each token, and whether one does."""
        shape = (batch, context)
        return {"targets": InputSpec(shape, "int32"), "loss_weights": InputSpec(shape, "float32")}

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        import numpy as np

        # Where no word begins, the target is a token that no head need have a class for.
        targets = np.where(batch.weights > 0, batch.targets, 0).astype(np.int32)
        return {"targets": targets, "loss_weights": batch.weights}

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: the softmax over the tags, and its gradient."""
        return ElementwiseOps(8, 8).times(vocab)

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights_N, targets_N = (inputs[name].reshape(-1) for name in ("loss_weights", "targets"))
            losses_N = label_losses(logits_of(ops, outputs), targets_N, self.label_smoothing)
            return {"loss": (losses_N * weights_N).sum()}

        return loss

    def measures(self, dims: Dims) -> Loss:
        return lambda ops, outputs, inputs: {"logits": logits_of(ops, outputs)}

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """Nats per word; weighted, where tags weigh differently."""
        return (Metric("loss", sums["loss"] / max(1e-30, sums["loss_weights"]), self.unit, better="lower"),)
