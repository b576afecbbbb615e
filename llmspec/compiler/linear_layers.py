"""Which matrices of a model are linear layers: those that may stay quantised, and those that may be adapted."""

from __future__ import annotations

from llmspec.compiler.plan import ModelPlan
from llmspec.compiler.walk import ADAPTED, EMBEDDING, in_order, named
from llmspec.parts.adapters.base import is_layer


def readable(model: ModelPlan) -> frozenset[str]:
    """The matrices (outputs, inputs) that linear layers and look-ups of tokens alone read: those that may stay
    quantised in memory."""
    adapter = model.adapter
    found = (t for t in model.tensors if len(t.shape) == 2 and not (adapter and adapter.owns(t.name)))
    return frozenset(t.name for t in found if t.role in ("matrix", "head") or t.name == f"{EMBEDDING}.weight")


def may_stay_quantised(model: ModelPlan) -> frozenset[str]:
    """Those of `readable` that training may keep quantised: not what it changes, nor a table that a head with a bias
    reads, too, since the bias is one more column of it in the loss."""
    fixed = {t.name for t in model.tensors if not t.trainable}
    biased = any(getattr(head, "bias", False) for head in model.heads.values())
    return frozenset(n for n in readable(model) & fixed if not biased or n.startswith(("layers.", "encoder.")))


def adaptable(model: ModelPlan) -> tuple[str, ...]:
    """The linear layers that an adapter may stand beside, by full name."""
    return tuple(
        name.removesuffix(".weight")
        for copy in in_order(model)
        for name, tensor in named(copy.path, copy.piece)
        if copy.piece.kind in ADAPTED and is_layer(tensor)
    )
