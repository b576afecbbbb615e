"""What objectives have in common that change how probable the answers are that the model has drawn.

B rows, T places of a row, D model width, V vocabulary. A place belongs to the token behind it: its target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import REWARDED, Draw, Loss, Objective, Outputs
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.ops import Linear
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.ops import Operations, Tensor

LOGPS, ENTROPY, REFERENCE_LOGPS = "logps", "entropy", "reference_logps"
REFERENCE = "reference"
"""Role of the model that the policy is held near to."""


class PolicyObjective(Objective):
    """Reads answers that the model drew: their tokens' log-probabilities as they were drawn, and how good each is."""

    predicts: ClassVar[str] = REWARDED
    needs: ClassVar[tuple[str, ...]] = ("causal",)
    gathered: ClassVar[tuple[str, ...]] = (LOGPS, ENTROPY, REFERENCE_LOGPS)
    unit: ClassVar[str] = ""
    logits_measured: ClassVar[float] = 2.0
    by_place: ClassVar[tuple[str, ...]] = ("answers", "old_logps", "reference_logps", "advantages")
    """Names of inputs (B, T) float32: 1 where the target is a token of an answer that counts, and what is known of
    those."""
    scalars: ClassVar[tuple[str, ...]] = ("inverse_temperature", "loss_scale", "kl_coefficient")
    """Names of inputs (1,) float32; `loss_scale` is what losses, times their part of the sum of all `loss_weights`, are
    multiplied with."""

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The ratios of new and old probabilities at which a token's part of the loss stops to change, for those that
        are worse than expected and those that are better."""
        return 0.0, float("inf")

    def ratios(self, changes: Sequence[float]) -> list[float]:
        """The ratio that counts of each token of one answer, from what its log-probability has changed by."""
        return [math.exp(change) for change in changes]

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """The drawn tokens, how much each counts, and what is known of it."""
        shape = (batch, context)
        return {
            "targets": InputSpec(shape, "int32", ids=True),
            "loss_weights": InputSpec(shape, "float32"),
            **{name: InputSpec(shape, "float32") for name in self.by_place},
            **{name: InputSpec((1,), "float32") for name in self.scalars},
        }

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """Those of a batch of drawn answers; any other stands for answers that were drawn as the model would, each as
        good as the others."""
        import numpy as np

        found = {"targets": batch.targets, "loss_weights": batch.weights, **(batch.drawn or {})}
        for name, spec in self.inputs(*batch.tokens.shape).items():
            if name not in found:
                value = 1 if name in ("answers", "answer_share", *self.scalars) else 0
                found[name] = np.full(spec.shape, value, spec.dtype)
        return found

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: the softmax over the vocabulary, and its gradient."""
        return CrossEntropy().elementwise(vocab)

    def measures(self, dims: Dims) -> Loss:
        """Log-probabilities and entropy (B, T) of the trained model, and log-probabilities of the reference, which are
        those of the trained model where there is none."""

        def found(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            shape, inverse = inputs["targets"].shape, inputs["inverse_temperature"]
            logps_BT, beside = token_logps(ops, outputs, inputs), outputs.others.get(REFERENCE)
            low_NV = scaled_logits(ops, outputs, inverse)
            low_NV = low_NV - low_NV.max(-1, keepdim=True)
            weights_NV = low_NV.exp()
            total_N = weights_NV.sum(-1)
            entropy_N = total_N.log() - (weights_NV * low_NV).sum(-1) / total_N
            reference_BT = logps_BT if beside is None else token_logps(ops, beside, inputs)
            return {LOGPS: logps_BT, ENTROPY: entropy_N.reshape(*shape), REFERENCE_LOGPS: reference_BT}

        return found

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """The mean reward, and the share of answers that end by themselves."""
        return (
            Metric("reward", sums.get("reward", 0.0), better="higher"),
            Metric("ended", sums.get("ended", 0.0), better="higher"),
        )


def scaled_logits(ops: Operations, outputs: Outputs, inverse_temperature: Tensor) -> Tensor:
    """(N, V): logits over the temperature."""
    assert outputs.layer is not None, "the head has outputs"
    features_ND = outputs.features.reshape(-1, outputs.features.shape[-1])
    logits_NV = ops.contiguous_barrier(ops.linear(features_ND, outputs.layer))
    if outputs.softcap is not None:
        logits_NV = ops.contiguous_barrier(ops.softcap(logits_NV, outputs.softcap))
    return logits_NV * inverse_temperature.reshape(1, 1)


def token_logps(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, T): log-probability of each target, in nats, under the logits over the temperature."""
    targets_BT, inverse = inputs["targets"], inputs["inverse_temperature"]
    targets_N = targets_BT.reshape(-1)
    if outputs.softcap is not None:  # which bounds logits before they are divided
        logits_NV = scaled_logits(ops, outputs, inverse)
        low_NV = logits_NV - logits_NV.max(-1, keepdim=True).detach()
        logps_NV = low_NV - low_NV.exp().sum(-1, keepdim=True).log()
        return logps_NV.gather(-1, targets_N.unsqueeze(-1)).reshape(*targets_BT.shape)
    layer = outputs.layer
    assert layer is not None, "the head has outputs"
    features_ND = outputs.features.reshape(-1, outputs.features.shape[-1])
    if layer.bias is not None:  # as one more column, of a number that is always 1
        features_ND = features_ND.cat(features_ND[:, :1] * 0 + 1, dim=1)
        layer = Linear(layer.weight.cat(layer.bias.reshape(-1, 1), dim=1))
    nats_N = ops.linear_cross_entropy(features_ND * inverse.reshape(1, 1), layer, targets_N)
    return -nats_N.reshape(*targets_BT.shape)
