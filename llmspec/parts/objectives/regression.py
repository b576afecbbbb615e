"""How far a number of a text is from the true one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import NUMBERS, Loss, Outputs
from llmspec.parts.objectives.documents import DocumentObjective

if TYPE_CHECKING:
    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor


class Regression(DocumentObjective):
    """Mean squared error of each text's number, in units of the standard deviation of the training data; or Huber's
    loss of it."""

    kind: Literal["regression"] = "regression"
    formula: ClassVar[str] = "mean over the texts, weighted, of (output − (label − mean) / std)²"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "huber": ("every error would count nothing", "no error would be large: `huber: null`")
    }
    predicts: ClassVar[str] = NUMBERS
    gathered: ClassVar[tuple[str, ...]] = ("outputs",)
    unit: ClassVar[str] = "MSE in std"
    head: str = "score"
    """The head of the model that it trains; the phase adds it where there is none of that name."""
    huber: float | None = Field(None, gt=0, le=1e6)
    """What is off by more standard deviations than this counts by its size and not by its square (Huber 1964): e²/2
    below it, huber · (|e| − huber/2) above. null: the squared error."""

    def wrong_head(self, head: Head) -> str:
        if wrong := super().wrong_head(head):
            return wrong
        return "" if head.kind == "score" else f"a head of kind {head.kind} gives no number"

    def document_inputs(self, rows: int, documents: int, head: Head) -> dict[str, InputSpec]:
        """The number of each document, over its spread."""
        shape = (rows, documents)
        return {"targets": InputSpec(shape, "float32"), "loss_weights": InputSpec(shape, "float32")}

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations for each document."""
        return ElementwiseOps(4, 4)

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            errors_N = self._outputs(ops, outputs) - inputs["targets"].reshape(-1)
            losses_N = errors_N.square()
            if (bound := self.huber) is not None:
                far_N = errors_N.abs()
                losses_N = (far_N <= bound).where(losses_N / 2, bound * (far_N - bound / 2))
            return {"loss": (losses_N * inputs["loss_weights"].reshape(-1)).sum()}

        return loss

    def measures(self, dims: Dims) -> Loss:
        return lambda ops, outputs, inputs: {"outputs": self._outputs(ops, outputs)}

    def _outputs(self, ops: Operations, outputs: Outputs) -> Tensor:
        """(N,) what the head says of each document."""
        assert outputs.layer is not None, "the head has an output"
        return ops.linear(outputs.features, outputs.layer).reshape(-1)
