"""Next-token cross entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import Draw, Loss, Objective, Outputs
from llmspec.parts.ops import Linear
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.ops import Operations, Tensor


class CrossEntropy(Objective):
    """Mean negative log-likelihood of the next token over the supervised positions, in nats."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    formula: ClassVar[str] = "mean over the supervised positions of −log softmax(logits)[target], + z_loss · log² Z"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "label_smoothing": ("nothing would be smoothed", "the targets themselves would count for nothing"),
        "z_loss": ("nothing would be added", "every loss would be infinite"),
    }
    needs: ClassVar[tuple[str, ...]] = ("causal",)
    unit: ClassVar[str] = "nats/token"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target spread evenly over the vocabulary (Szegedy et al. 2016, section 7)."""
    z_loss: float = Field(0.0, ge=0)
    """What log² Z is multiplied with and added to the loss of each token, Z what its softmax divides by, which keeps
    logits from drifting; 1e-4 in PaLM (Chowdhery et al. 2022, section 5). Validation leaves it out."""

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """The token after each one, and whether it counts."""
        shape = (batch, context)
        return {"targets": InputSpec(shape, "int32", ids=True), "loss_weights": InputSpec(shape, "float32")}

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        return {"targets": batch.targets, "loss_weights": batch.weights}

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: the softmax over the vocabulary, and its gradient."""
        return ElementwiseOps(5, 9).times(vocab)

    def in_validation(self) -> CrossEntropy:
        """What is smoothed is no longer how probable the text is, nor its exponential a perplexity."""
        return self.model_copy(update={"z_loss": 0.0, "label_smoothing": 0.0})

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            targets_N = inputs["targets"].reshape(-1)
            losses_N = token_losses(ops, outputs, targets_N, self.label_smoothing, self.z_loss)
            return {"loss": (losses_N * inputs["loss_weights"].reshape(-1)).sum()}

        return loss

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """Per token, per character (whatever the tokenizer), and perplexity: e to the nats per token."""
        nats, tokens = sums["loss"], int(sums["loss_weights"])
        per_token = nats / max(1, tokens)
        return (
            Metric("loss", per_token, "nats/token", better="lower"),
            Metric("loss", nats / max(1, characters), "nats/character", better="lower"),
            Metric("perplexity", math.exp(min(per_token, 700.0)), better="lower"),
            Metric("tokens", tokens, "tokens"),
        )


def token_losses(
    ops: Operations, outputs: Outputs, targets_N: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """(N,) negative log-likelihood of each target under the logits of a head, in nats."""
    assert outputs.layer is not None, "the head has outputs"
    features_ND = outputs.features.reshape(-1, outputs.features.shape[-1])
    layer = outputs.layer
    if layer.bias is not None:  # as one more column, of a number that is always 1
        features_ND = features_ND.cat(features_ND[:, :1] * 0 + 1, dim=1)
        layer = Linear(layer.weight.cat(layer.bias.reshape(-1, 1), dim=1))
    return ops.linear_cross_entropy(features_ND, layer, targets_N, label_smoothing, outputs.softcap, z_loss)
