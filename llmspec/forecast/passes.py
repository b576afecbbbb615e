"""What the pieces of a step take, and passes forward alone, by the rates of a machine."""

from __future__ import annotations

from typing import NamedTuple

from llmspec.compiler import walk
from llmspec.compiler.cost import apart, share_read
from llmspec.compiler.dropped import dropped
from llmspec.compiler.others import models
from llmspec.compiler.plan import ModelPlan, PhasePlan
from llmspec.forecast.calibration import BACKWARD, Rates
from llmspec.parts.phases import Phase

BESIDE_STEP = 1.5e-3
"""Seconds of a step that the host takes for its batch, its rows and its call. Measured."""


class Pieces(NamedTuple):
    """Seconds of one optimizer step by what takes them, forward and backward."""

    products: float
    """Of the layers' weights."""
    attention: float
    head: float
    """Head and loss."""
    other: float
    """Norms, activations, residuals and dropout."""
    update: float
    """Clipping and optimizer."""
    beside: float
    """The host's own work."""

    @property
    def total(self) -> float:
        return sum(self)


def step_pieces(model: ModelPlan, phase: Phase, rates: Rates, passes: float | None = None) -> Pieces:
    """What the pieces of a step take, each by its own rate; of so many passes, all of a whole batch if left out."""
    passes = phase.gradient_accumulation_steps if passes is None else passes
    tokens, width = phase.micro_batch_size * model.context * passes, model.d_model
    matrices, pieces = [t for t in model.tensors if t.role == "matrix"], list(walk.walk(model))
    passed = (BACKWARD * trained_share(model, phase) + phase.activation_checkpointing + phase.asks_again) * 2 * tokens
    attentions = [(p.uses * p.rate, p.dims) for p in pieces if p.kind in ("attention", "cross_attention")]
    norms = sum(p.uses * p.rate for p in pieces if p.kind == "norm")
    hidden = sum(
        p.uses * p.rate * (p.part.saved_for_backward(p.dims) - (getattr(p.part, "d_ff", 0) or 0))
        for p in pieces
        if p.kind == "mlp"
    )
    turned = sum(uses * (dims.heads + 2 * dims.kv_heads) * dims.head_dim for uses, dims in attentions)
    scored = sum(uses * dims.seen * dims.heads * dims.head_dim for uses, dims in attentions)
    outputs = model.heads[phase.objective.head].outputs(model.dims)
    read = walk.rates(model)
    drops = dropped(model) * rates.drop
    update = 0.0
    for t in model.trained:
        update += rates.update * t.count
        if work := phase.optimizer.products(t.role, t.shape):
            update += work / rates.product(min(t.shape[-2:]))
    return Pieces(
        products=sum(passed * read.get(t.name, 1.0) * t.count / rates.product(min(t.shape[-2:])) for t in matrices),
        attention=passed * 2 * scored / rates.attention,
        head=passed * share_read(model, phase) * outputs * width / (rates.loss * rates.product(width)),
        # The sum of the embedding counts as one norm more.
        other=tokens * (rates.norm * (norms + 1) * width + drops + rates.gate * hidden + rates.norm * turned),
        update=update + (2 * rates.update * model.trained_parameters / 7 * passes if phase.updates_apart else 0.0),
        beside=BESIDE_STEP * passes + rates.call,
    )


def pieces_beside(planned: PhasePlan, rates: Rates, passes: float) -> float:
    """Seconds of the passes forward of the models that stand beside the trained one in a step, such as a teacher's."""
    if planned.phase.prompted:  # it asks them about its answers, before its steps
        return 0.0
    return sum(forward_seconds(m, planned.phase, m.generating_head, rates, passes) for m in models(planned.others))


def forward_seconds(model: ModelPlan, phase: Phase, head: str | None, rates: Rates, passes: float) -> float:
    """Seconds of so many passes forward of a model with a head, over batches of a phase."""
    asked = phase.objective.model_copy(update={"head": head})
    as_if = phase.model_copy(update={"objective": asked, "activation_checkpointing": False})
    found = step_pieces(model, as_if, rates, passes)
    multiplied = found.products + found.attention + found.head
    return multiplied / (BACKWARD * trained_share(model, as_if)) + found.other / BACKWARD


def trained_share(model: ModelPlan, phase: Phase) -> float:
    """Products of a pass forward and backward, as a share of those where everything is trained."""
    heads, read = phase.objective.heads, share_read(model, phase)
    forward = walk.forward_flops(model, heads, read)
    return (forward + walk.backward_flops(model, heads, read, apart(phase))) / (BACKWARD * forward)
