"""What is to be expected of an answer before each of its tokens, by a model of its own: the critic (Schulman et al.
2017, arXiv:1707.06347, section 5; beginning as the reward model: Ouyang et al. 2022, arXiv:2203.02155, appendix C).

B rows, T places of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import Draw, Loss, Outputs
from llmspec.parts.objectives.policy import PolicyObjective
from llmspec.parts.objectives.value_function import VALUE_SUMS, VALUES, value_errors, values
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head
    from llmspec.parts.ops import Operations, Tensor


class Values(PolicyObjective):
    """What a critic learns of answers that a policy drew. No spec names it: it trains the `body` that an objective of
    kind `ppo` names for its `value`."""

    kind: Literal["values"] = "values"
    formula: ClassVar[str] = "coefficient · mean over the drawn tokens of ½ · max((V − R)², (clip(V, …) − R)²)"
    by_place: ClassVar[tuple[str, ...]] = ("answers", "returns", "old_values")
    scalars: ClassVar[tuple[str, ...]] = ("loss_scale",)
    counted: ClassVar[tuple[str, ...]] = VALUE_SUMS
    gathered: ClassVar[tuple[str, ...]] = (VALUES,)
    logits_measured: ClassVar[float] = 1.0
    head: str = "value"
    """The head that says values."""
    coefficient: float = 1.0
    """What the loss is multiplied with."""
    clip_range: float | None = None
    """Bound on how far a value moves until nothing more is gained by it."""

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """Which tokens were drawn, how much each counts, and what is known of it."""
        found = super().inputs(batch, context)
        return {name: spec for name, spec in found.items() if name != "targets"}

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """Those of a batch of drawn answers."""
        found = super().arrays(batch, draw, specials)
        return {name: array for name, array in found.items() if name in self.inputs(*batch.tokens.shape)}

    def wrong_head(self, head: Head) -> str:
        return "" if head.kind == "scalar" else f"a head of kind {head.kind} gives no single number for each token"

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: two squared distances, and the gradient."""
        return ElementwiseOps(10, 10)

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            error_BT, held_BT = value_errors(values(ops, outputs), inputs, self.clip_range)
            error_BT = error_BT / 2
            whole = (self.coefficient * error_BT * inputs["loss_weights"]).sum() * inputs["loss_scale"].reshape(())
            told = error_BT.sum(), (held_BT * inputs["answers"]).sum()
            return {"loss": whole, **dict(zip(VALUE_SUMS, told, strict=True))}

        return loss

    def measures(self, dims: Dims) -> Loss:
        return lambda ops, outputs, inputs: {VALUES: values(ops, outputs)}
