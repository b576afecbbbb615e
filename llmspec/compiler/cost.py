"""What training computes: matrix products exactly, everything else estimated.

Products are the unit of budgets and of promises, since every backend does the same ones. The total is what tinygrad
counts for its plain backend, where the gradient of an embedding is a product with one-hot rows, too.
"""

from __future__ import annotations

from llmspec.compiler import walk
from llmspec.compiler.dropped import dropped, undropped
from llmspec.compiler.inputs import documents_apart
from llmspec.compiler.lengths import stages
from llmspec.compiler.plan import Cost, ModelPlan
from llmspec.parts.base import ElementwiseOps
from llmspec.parts.phases import Phase

ONE_HOT, BESIDE_HEAD = 3.69, 2.58
"""Operations per number of a table and token in the gradient of an embedding: compare, choose, multiply, add. Fewer
where the head is tied: its gradient shares the loop."""
DROPOUT = ElementwiseOps(9.0, 1.5)
"""Operations for each number at a site of dropout: a counted random number (as one operation), compare, choose."""
CLIPPING = 3.0
"""Operations for each gradient: its square, the sum and the scaling."""

COMPARED, COMPARED_FORWARD = 22.0, 14.0
"""Operations for each pair of texts that are compared, with and without the gradient: masks, softmax, the largest."""

AVERAGING = 3.0
"""The same to move an average towards a weight."""


def pass_cost(model: ModelPlan, phase: Phase) -> Cost:
    """FLOPs of one pass forward and backward over a batch."""
    tokens = phase.micro_batch_size * model.context
    each = elementwise(model, phase)
    other = tokens * (each.forward + each.backward) + embedding_gradients(model, phase)
    heads, read = phase.objective.heads, share_read(model, phase)
    products = walk.forward_flops(model, heads, read) + walk.backward_flops(model, heads, read, apart(phase))
    through = any(copy.through for copy in walk.backward(model, heads))
    products += pooling_flops(model, phase) * (1 + through)
    products += compared_flops(model, phase) * (1 + 2 * through)
    other += COMPARED * compared(model, phase)
    if phase.activation_checkpointing:
        products += layer_flops(model)
        other += tokens * each.forward
    return Cost(products=products * tokens, other=other)


def layer_flops(model: ModelPlan) -> float:
    """FLOPs per token of the products of all layers forward: what is done again where activations are not kept."""
    inside = ("attention", "cross_attention", "mlp")
    return sum(p.uses * p.rate * p.part.flops(p.dims) for p in walk.walk(model) if p.kind in inside)


def forward_cost(model: ModelPlan, phase: Phase) -> Cost:
    """FLOPs of one pass forward with its losses, as in validation: no dropout."""
    tokens = phase.micro_batch_size * model.context
    products = walk.forward_flops(model, phase.objective.heads, share_read(model, phase)) + pooling_flops(model, phase)
    products += compared_flops(model, phase)
    return Cost(
        products=products * tokens,
        other=tokens * elementwise(undropped(model), phase).forward + COMPARED_FORWARD * compared(model, phase),
    )


def update_cost(model: ModelPlan, phase: Phase, passes: float | None = None) -> Cost:
    """FLOPs of one optimizer step after its passes: clipping, summing of passes, update."""
    optimizer, clip = phase.optimizer, 1 + CLIPPING * (phase.max_grad_norm is not None)
    sums = 2.0 * (phase.gradient_accumulation_steps if passes is None else passes) * phase.updates_apart
    averaged = AVERAGING * (phase.ema is not None)
    return Cost(
        products=sum(optimizer.products(t.role, t.shape) for t in model.trained),
        other=sum((optimizer.of(t.name).elementwise(t.role) + clip + sums + averaged) * t.count for t in model.trained),
    )


def step_cost(model: ModelPlan, phase: Phase, passes: float | None = None) -> Cost:
    """FLOPs of one whole optimizer step: of so many passes, all that it has once its batch is whole if left out."""
    passes = phase.gradient_accumulation_steps if passes is None else passes
    one, update = pass_cost(model, phase), update_cost(model, phase, passes)
    if phase.asks_again:
        again = forward_cost(model, phase)
        one = Cost(
            products=one.products + phase.asks_again * again.products, other=one.other + phase.asks_again * again.other
        )
    return Cost(products=one.products * passes + update.products, other=one.other * passes + update.other)


def phase_cost(model: ModelPlan, phase: Phase, steps: int) -> Cost:
    """FLOPs of all steps of a phase."""
    found = [(s.steps, step_cost(s.model, s.phase, s.passes)) for s in stages(model, phase, steps)]
    return Cost(products=sum(n * one.products for n, one in found), other=sum(n * one.other for n, one in found))


def elementwise(model: ModelPlan, phase: Phase) -> ElementwiseOps:
    """Operations per token that are no product, the gradients of embeddings apart."""
    read, drops = share_read(model, phase), DROPOUT.times(dropped(model))
    outputs = model.heads[phase.objective.head].outputs(model.dims)
    return walk.elementwise(model, phase.objective.heads, read).plus(
        drops, phase.objective.elementwise(outputs).times(read)
    )


def apart(phase: Phase) -> list[str]:
    """Heads that an objective reads, and whose gradients do not reach the states that they read."""
    return [name for name, reaches in phase.objective.beside.items() if not reaches]


def share_read(model: ModelPlan, phase: Phase) -> float:
    """Of a row's states, the share that the head of a phase's objective reads."""
    places = phase.objective.states(model.context)
    return 1.0 if places is None else places / model.context


def pooling_flops(model: ModelPlan, phase: Phase) -> float:
    """FLOPs per token of the product that makes one state of each document of a row."""
    places = phase.objective.states(model.context) if phase.objective.documents else None
    return 2.0 * (places or 0) * model.d_model


def compared(model: ModelPlan, phase: Phase) -> int:
    """Pairs of texts that the objective of a pass compares."""
    return phase.objective.compared(phase.micro_batch_size, model.context)


def compared_flops(model: ModelPlan, phase: Phase) -> float:
    """FLOPs per token of the product of all vectors of a pass with each other."""
    numbers = compared(model, phase) * model.heads[phase.objective.head].outputs(model.dims)
    return 2.0 * numbers / (phase.micro_batch_size * model.context)


def embedding_gradients(model: ModelPlan, phase: Phase) -> float:
    """Operations of the gradients of all tables of embeddings in one pass: each is a product with one-hot rows.

    A table of positions that do not restart with documents is read in its own order, and its gradient is a plain sum;
    so is that of token types, all of which are the first in training.
    """
    tokens, found = phase.micro_batch_size * model.context, 0.0
    for tensor in model.trained:
        if tensor.name == f"{walk.EMBEDDING}.weight":
            each = BESIDE_HEAD if tied(model, phase) else ONE_HOT
            found += each * tensor.count * (tokens + phase.micro_batch_size * model.encoder_context)
        elif (
            tensor.role == "embedding"
            and documents_apart(model, phase)
            and not tensor.name.startswith(f"{walk.EMBEDDING}.")
        ):
            found += ONE_HOT * tensor.count * tokens
    return found


def tied(model: ModelPlan, phase: Phase) -> bool:
    """Whether the head that a phase trains is the token embedding."""
    return bool(getattr(model.heads[phase.objective.head], "tied", False))
