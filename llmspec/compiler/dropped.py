"""How many numbers training drops some of, by the sites of dropout. Unit: numbers for each token of the context."""

from __future__ import annotations

from llmspec.compiler import walk
from llmspec.compiler.plan import BlockPlan, ModelPlan, StackPlan
from llmspec.parts.residual import FORMS


def dropped(model: ModelPlan) -> float:
    """Numbers at all sites whose share is not 0: of what each stack reads, and of its blocks."""
    return adapter_dropped(model) + sum(
        walk.rate(model, stack)
        * (
            bool(model.drops.embedding) * model.d_model
            + sum(
                len(stack.layers_of(i)) * sum(block_dropped(model, stack, b).values())
                for i, b in enumerate(stack.blocks)
            )
        )
        for stack in model.stacks
    )


def block_dropped(model: ModelPlan, stack: StackPlan, block: BlockPlan) -> dict[str, float]:
    """The same within a block, by site: probabilities of keys, what its branches (or the sum of parallel ones) add to
    the stream, and the hidden layers of feed-forward layers."""
    found = {"attention": 0.0, "mlp": 0.0}
    for _, part, kind in walk.block_pieces(block):
        site = "attention" if kind == "cross_attention" else kind
        if site in found:
            found[site] += part.dropped(walk.piece_dims(model, block, stack, kind))
    sums = 1 if FORMS[block.residual].parallel else len(walk.branches(block))
    found["residual"] = float(sums * model.d_model)
    return {site: count for site, count in found.items() if getattr(model.drops, site)}


def adapter_dropped(model: ModelPlan) -> float:
    """The same of what the adapters of all layers read."""
    if model.adapter is None or not model.adapter.drops:
        return 0.0
    return sum(
        copy.piece.rate * model.adapter.dropped(*tensor.shape)
        for copy in walk.in_order(model)
        for name, tensor in walk.named(copy.path, copy.piece)
        if walk.beside(model, copy.piece, name.removesuffix(".weight"), tensor)
    )


def undropped(model: ModelPlan) -> ModelPlan:
    """The model as it is in validation, where nothing is dropped."""
    adapter = model.adapter and model.adapter.undropped()
    return model.model_copy(update={"dropout": 0.0, "adapter": adapter})
