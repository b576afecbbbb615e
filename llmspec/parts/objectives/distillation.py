"""Distillation of a larger model's knowledge (Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2).

N tokens that are predicted, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.objectives.base import Loss, Outputs
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.others import Other, StartModel

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor

TEACHER = "teacher"


class Distillation(CrossEntropy):
    """Divergence from the next-token distribution of a trained model, the teacher, together with the cross entropy of
    the text itself, in nats."""

    kind: Literal["distillation"] = "distillation"  # type: ignore[assignment]
    formula: ClassVar[str] = (
        "mean over the supervised positions of share · temperature² · KL + (1 − share) · −log softmax(logits)[target]"
        ", + z_loss · log² Z"
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        **CrossEntropy.effects,
        "temperature": ("every distribution would be one single token", "every distribution would be even"),
        "teacher_share": ("the teacher would count for nothing", "the text would count for nothing"),
    }
    logit_arrays: ClassVar[float] = 3.3
    counted: ClassVar[tuple[str, ...]] = ("cross_entropy", "divergence")
    teacher: str | StartModel
    """The phase whose model teaches, or `{model: FOLDER}`: a run, a saved or imported model, a Hugging Face folder or a
    GGUF file, with the same tokenizer. It may be of any size; its weights do not change."""
    divergence: Literal["forward", "reverse"] = "forward"
    """forward: KL(teacher ‖ student), which covers all that the teacher holds possible; reverse: KL(student ‖ teacher),
    which keeps to what it holds most probable (Gu et al. 2023, arXiv:2306.08543, section 2)."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Divides both logits in the divergence, which is multiplied by its square, so that gradients keep their size."""
    teacher_share: float = Field(0.5, gt=0, le=1)
    """Weight of the divergence; the cross entropy of the text has the rest."""

    def others(self) -> tuple[Other, ...]:
        return (Other(TEACHER, ("teacher",), self.teacher, ("policy",)),)

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per token: three softmaxes over the vocabulary, their divergence, and the gradient of two."""
        return ElementwiseOps(22, 22).times(vocab)

    def build(self, dims: Dims) -> Loss:
        share, heat, smoothing = self.teacher_share, self.temperature, self.label_smoothing

        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights_N, targets_N1 = inputs["loss_weights"].reshape(-1), inputs["targets"].reshape(-1, 1)
            own_NV = logits(ops, outputs)
            taught_NV = logits(ops, outputs.others[TEACHER]).detach()
            known_NV = log_softmax(own_NV, 1.0)
            student_NV = known_NV if heat == 1 else log_softmax(own_NV, heat)
            teacher_NV = log_softmax(taught_NV, heat)
            p, q = (teacher_NV, student_NV) if self.divergence == "forward" else (student_NV, teacher_NV)
            divergence = ((p.exp() * (p - q)).sum(-1) * weights_N).sum() * heat**2
            chosen_N = known_NV.gather(-1, targets_N1).squeeze(-1)
            if smoothing:
                chosen_N = (1 - smoothing) * chosen_N + smoothing * known_NV.mean(-1)
            entropy = -(chosen_N * weights_N).sum()
            whole = share * divergence + (1 - share) * entropy
            if self.z_loss:  # a logit less its logarithm of a probability is log Z
                whole = whole + self.z_loss * ((own_NV - known_NV)[:, 0].square() * weights_N).sum()
            return {
                "loss": whole,
                "cross_entropy": entropy,
                "divergence": divergence,
            }

        return loss

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """The cross entropy of the text as without a teacher, and the divergence from what the teacher holds
        probable."""
        tokens = max(1, int(sums["loss_weights"]))
        found = super().metrics({**sums, "loss": sums["cross_entropy"]}, characters)
        return (*found, Metric("divergence", sums["divergence"] / tokens, "nats/token", better="lower"))


def logits(ops: Operations, outputs: Outputs) -> Tensor:
    """(N, V) of a head."""
    features_ND = outputs.features.reshape(-1, outputs.features.shape[-1])
    assert outputs.layer is not None, "the head has outputs"
    logits_NV = ops.contiguous_barrier(ops.linear(features_ND, outputs.layer))
    return logits_NV if outputs.softcap is None else ops.contiguous_barrier(ops.softcap(logits_NV, outputs.softcap))


def log_softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    """(N, V) log probabilities of logits that a temperature divides."""
    low_NV = (logits_NV - logits_NV.max(-1, keepdim=True).detach()) * (1 / temperature)
    return low_NV - low_NV.exp().sum(-1, keepdim=True).log()
