"""Cross entropy of the label of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import LABELS, Loss, Outputs
from llmspec.parts.objectives.documents import DocumentObjective

if TYPE_CHECKING:
    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor


class Classification(DocumentObjective):
    """Mean negative log-likelihood of each text's label, in nats; of a head with `multi_label`, the mean over the
    classes of the negative log-likelihood of yes or no (binary cross entropy)."""

    kind: Literal["classification"] = "classification"
    formula: ClassVar[str] = "mean over the texts, weighted, of −log softmax(logits)[label]"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "label_smoothing": ("nothing would be smoothed", "the labels themselves would count for nothing")
    }
    predicts: ClassVar[str] = LABELS
    gathered: ClassVar[tuple[str, ...]] = ("logits",)
    unit: ClassVar[str] = "nats/text"
    head: str = "classes"
    """The head of the model that it trains; the phase adds it where there is none of that name."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target spread evenly over the classes (Szegedy et al. 2016, section 7); of a yes or no, over both
    answers."""

    def in_validation(self) -> Classification:
        return self.model_copy(update={"label_smoothing": 0.0})

    def wrong_head(self, head: Head) -> str:
        if wrong := super().wrong_head(head):
            return wrong
        return "" if head.kind == "classes" else f"a head of kind {head.kind} gives no logits of classes"

    def document_inputs(self, rows: int, documents: int, head: Head) -> dict[str, InputSpec]:
        """The label of each document; of several, 1 for each that it has."""
        shape = (rows, documents)
        targets = InputSpec(shape, "int32")
        if getattr(head, "multi_label", False):
            targets = InputSpec((*shape, getattr(head, "classes", 1)), "float32")
        return {"targets": targets, "loss_weights": InputSpec(shape, "float32")}

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations for each document: the softmax over the classes, and its gradient."""
        return ElementwiseOps(8, 8).times(vocab)

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            logits_NC = logits_of(ops, outputs)
            weights_N, targets = inputs["loss_weights"].reshape(-1), inputs["targets"]
            if len(targets.shape) == 3:
                losses_N = self._each(logits_NC, targets.reshape(*logits_NC.shape))
            else:
                losses_N = label_losses(logits_NC, targets.reshape(-1), self.label_smoothing)
            return {"loss": (losses_N * weights_N).sum()}

        return loss

    def measures(self, dims: Dims) -> Loss:
        return lambda ops, outputs, inputs: {"logits": logits_of(ops, outputs)}

    def _each(self, logits_NC: Tensor, targets_NC: Tensor) -> Tensor:
        """(N,) means over the classes of the cross entropy of yes or no."""
        smooth = self.label_smoothing
        wanted_NC = targets_NC * (1 - smooth) + smooth / 2 if smooth else targets_NC
        # log(1 + e^x) - y x, in the form that no exponential overflows in.
        overflow_free = logits_NC.maximum(0) - logits_NC * wanted_NC + (1 + (-logits_NC.abs()).exp()).log()
        return overflow_free.mean(-1)

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """Nats per text; weighted, where labels weigh differently."""
        return (Metric("loss", sums["loss"] / max(1e-30, sums["loss_weights"]), self.unit, better="lower"),)


def logits_of(ops: Operations, outputs: Outputs) -> Tensor:
    """(N, C) logits of a head of classes, of each text or token of a batch."""
    assert outputs.layer is not None, "the head has outputs"
    logits = ops.linear(outputs.features, outputs.layer)
    return logits if len(logits.shape) == 2 else logits.reshape(-1, int(logits.shape[-1]))


def label_losses(logits_NC: Tensor, targets_N: Tensor, smoothing: float) -> Tensor:
    """(N,) cross entropies of one label each, a share of each target spread evenly over the classes."""
    logs_NC = logits_NC.log_softmax(-1)
    right_N = logs_NC.gather(1, targets_N.reshape(-1, 1)).reshape(-1)
    if not smoothing:
        return -right_N
    return -(right_N * (1 - smoothing) + logs_NC.mean(-1) * smoothing)
