"""Next-token cross entropy."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import ElementwiseOps, Part


class CrossEntropy(Part):
    """Mean negative log-likelihood of the next token over the supervised positions, in nats."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    formula: ClassVar[str] = "mean over the supervised positions of −log softmax(logits)[target]"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "label_smoothing": ("nothing would be smoothed", "the targets themselves would count for nothing")
    }
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target spread evenly over the vocabulary (Szegedy et al. 2016, section 7)."""

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: the softmax over the vocabulary, and its gradient."""
        return ElementwiseOps(5, 9).times(vocab)

    def build(self) -> Any:
        """f(ops, hidden_ND, head_VD, targets_N) -> losses_N in nats, before the mask of supervision."""
        return lambda ops, hidden, head, targets: ops.linear_cross_entropy(hidden, head, targets, self.label_smoothing)
