"""What the graphs of a training phase read anew at every call: declared here once, by name, shape and type.

Steps, dry schedules, the memory formula, batches of data and those of benchmarks all follow this declaration.
Letters: B batch, T tokens of a block.
"""

from __future__ import annotations

from types import MappingProxyType

from llmspec.compiler import walk
from llmspec.compiler.masks import CROSS, ENCODER, RANGES, masks_of
from llmspec.compiler.others import Others, declared_beside
from llmspec.compiler.plan import ModelPlan
from llmspec.compiler.updates import Updates
from llmspec.parts.base import InputSpec
from llmspec.parts.phases import Phase

__all__ = ["MEMBERS", "InputSpec", "declared_inputs", "step_inputs"]

MEMBERS = "members"
"""Input of a pass whose rows hold several documents, (B, K, T) float32: what of each token's state stands for each
document, such as 1 at its last token."""

NOISE = "embedding_noise"
"""What is added to the embeddings of the tokens in training, where a phase says so."""
NONE: Others = MappingProxyType({})


def declared_inputs(model: ModelPlan, phase: Phase, others: Others = NONE) -> dict[str, InputSpec]:
    """What a forward pass with its losses reads of a batch: tokens, what the objective needs, the mask, positions;
    `others` read the same tokens."""
    rows, context = phase.micro_batch_size, model.context
    declared = {"tokens": InputSpec((rows, context), "int32", ids=True)}
    declared |= phase.objective.inputs(rows, context)
    head = model.heads[phase.objective.head]
    if phase.objective.documents:
        documents = phase.objective.places(context) or context
        declared[MEMBERS] = InputSpec((rows, documents, context), "float32")
        declared |= phase.objective.document_inputs(rows, documents, head)
    # Without a document mask, rows see the same keys unless padding or a prefix matters; positions are the block's.
    for name, mask in masks_of(model).items():
        apart = documents_apart(model, phase) or not mask.causal
        declared[RANGES + name] = InputSpec((rows if apart else 1, context, 2), "int32")
    if (head.per_sequence and not phase.objective.documents) or walk.adds_losses(model.decoder):
        declared["filled"] = InputSpec((rows, context), "int32")
    if documents_apart(model, phase) or walk.follows_length(model, model.decoder):
        declared["positions"] = InputSpec((rows, context), "int32")
    beside = declared_beside(rows, context, documents_apart(model, phase), others)
    return {**beside, **declared, **encoder_inputs(model, rows)}


def encoder_inputs(model: ModelPlan, rows: int) -> dict[str, InputSpec]:
    """What an encoder reads beside, and the ranges of its tokens that the decoder's see; nothing without one."""
    if model.encoder is None:
        return {}
    length, declared = model.encoder_context, dict[str, InputSpec]()
    declared[f"{ENCODER}tokens"] = InputSpec((rows, length), "int32", ids=True)
    for name, mask in masks_of(model, model.encoder).items():
        declared[f"{RANGES}{ENCODER}{name}"] = InputSpec((1 if mask.causal else rows, length, 2), "int32")
    if walk.adds_losses(model.encoder):
        declared[f"{ENCODER}filled"] = InputSpec((rows, length), "int32")
    if walk.follows_length(model, model.encoder):
        declared[f"{ENCODER}positions"] = InputSpec((rows, length), "int32")
    declared[CROSS] = InputSpec((rows, model.context, 2), "int32")
    return declared


PASS_SHARE = "pass_share"
"""The share of one pass in its step (1,), where steps have different numbers of them."""


def documents_apart(model: ModelPlan, phase: Phase) -> bool:
    """Whether documents that share a row are kept apart; with an encoder, a row has one document alone."""
    return phase.document_mask and model.encoder is None


def step_inputs(model: ModelPlan, phase: Phase, others: Others = NONE) -> dict[str, InputSpec]:
    """The same of an optimizer step, which reads the optimizer's numbers, too: a key where something is dropped, and
    whether a pass adds to those before it."""
    declared = {
        **declared_inputs(model, phase, others),
        "scalars": InputSpec((Updates(model, phase).count,), "float32"),
    }
    if model.drawn:
        declared["key"] = InputSpec((2,), "uint32")
    if phase.embedding_noise is not None:
        declared[NOISE] = InputSpec((phase.micro_batch_size, model.context, model.d_model), "float32")
    if phase.updates_apart:
        declared["keep"] = InputSpec((1,), "float32")
    if phase.batch_size_warmup.percent:
        declared[PASS_SHARE] = InputSpec((1,), "float32")
    return declared
