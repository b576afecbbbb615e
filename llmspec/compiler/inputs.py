"""What the graphs of a training phase read anew at every call: declared here once, by name, shape and type.

Steps, dry schedules, the memory formula, batches of data and those of benchmarks all follow this declaration.
Letters: B batch, T tokens of a block.
"""

from __future__ import annotations

from llmspec.compiler.masks import RANGES, masks_of
from llmspec.compiler.plan import ModelPlan
from llmspec.parts.base import InputSpec
from llmspec.parts.phases import Phase

__all__ = ["InputSpec", "declared_inputs", "step_inputs"]


def declared_inputs(model: ModelPlan, phase: Phase) -> dict[str, InputSpec]:
    """What a forward pass with its losses reads of a batch: tokens, what the objective needs, the mask, positions."""
    rows, context = phase.micro_batch_size, model.context
    declared = {"tokens": InputSpec((rows, context), "int32", ids=True)}
    declared |= phase.objective.inputs(rows, context)
    # Without a document mask, rows see the same keys unless padding or a prefix matters; positions are the block's.
    for name, mask in masks_of(model).items():
        apart = phase.document_mask or not mask.causal
        declared[RANGES + name] = InputSpec((rows if apart else 1, context, 2), "int32")
    if model.heads[phase.objective.head].per_sequence:
        declared["filled"] = InputSpec((rows, context), "int32")
    if phase.document_mask:
        declared["positions"] = InputSpec((rows, context), "int32")
    return declared


def step_inputs(model: ModelPlan, phase: Phase) -> dict[str, InputSpec]:
    """The same of an optimizer step, which reads the optimizer's numbers, too: a key where something is dropped, and
    whether a pass adds to those before it."""
    declared = {
        **declared_inputs(model, phase),
        "scalars": InputSpec((len(phase.optimizer.scalars(1.0, 1)),), "float32"),
    }
    if model.dropout:
        declared["key"] = InputSpec((2,), "uint32")
    if phase.gradient_accumulation_steps > 1:
        declared["keep"] = InputSpec((1,), "float32")
    return declared
