"""Which matrices of a model are linear layers: those that may stay quantised, and those that may be adapted."""

from __future__ import annotations

from collections.abc import Mapping

from llmspec.compiler.plan import ModelPlan, TensorPlan
from llmspec.compiler.walk import ADAPTED, EMBEDDING, in_order, named, tensor_specs
from llmspec.parts.adapters.base import Adapter, is_layer
from llmspec.parts.base import Init


def readable(model: ModelPlan) -> frozenset[str]:
    """The matrices (outputs, inputs), and stacks of them (experts, outputs, inputs), that linear layers and look-ups of
    tokens alone read: those that may stay quantised in memory."""
    adapter = model.adapter
    found = (t for t in model.tensors if len(t.shape) in (2, 3) and not (adapter and adapter.owns(t.name)))
    return frozenset(t.name for t in found if t.role in ("matrix", "head") or t.name == f"{EMBEDDING}.weight")


def may_stay_quantised(model: ModelPlan) -> frozenset[str]:
    """Those of `readable` that training may keep quantised: not what it changes, nor stacks of experts, nor a
    table that a head with a bias reads, too, since the bias is one more column of it in the loss."""
    fixed = {t.name for t in model.tensors if not t.trainable and len(t.shape) == 2}
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


def beside(base: ModelPlan, adapter: Adapter) -> ModelPlan:
    """The model with an adapter beside its layers."""
    model = base.model_copy(update={"adapter": adapter})
    known, made = {t.name: t for t in base.tensors}, list[TensorPlan]()
    shapes = {name: t.shape for name, t in tensor_specs(base)}
    for name, t in tensor_specs(model):
        made.append(
            known.get(name) or TensorPlan(name=name, shape=t.shape, role=t.role, init=starts(adapter, name, shapes))
        )
    return model.model_copy(update={"tensors": tuple(made)})


def starts(adapter: Adapter, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Init:
    """How a tensor of an adapter starts."""
    for one in adapter.tensors(1, 1, False):
        if name.endswith(f".{one.spec.name}"):
            outputs, inputs = shapes[name.removesuffix(one.spec.name) + "weight"]
            return next(t.init for t in adapter.tensors(outputs, inputs, False) if t.spec.name == one.spec.name)
    raise ValueError(f"{name} is none of an adapter's tensors")


def without_adapter(model: ModelPlan) -> ModelPlan:
    """The same network without its adapter."""
    assert model.adapter is not None
    kept = tuple(t for t in model.tensors if not model.adapter.owns(t.name))
    return model.model_copy(update={"adapter": None, "tensors": kept})
