"""That a model's forward pass reads exactly the tensors that its plan has."""

from __future__ import annotations

from tinygrad import Tensor

from llmspec.backends.plain.ops import Ops
from llmspec.compiler import walk
from llmspec.compiler.masks import CROSS, ENCODER, RANGES, masks_of
from llmspec.compiler.plan import ModelPlan, StackPlan
from llmspec.model.transformer import Transformer, block_context
from llmspec.model.weight_view import Weights


def assert_complete(model: Transformer) -> None:
    """The tensors that the forward pass reads are exactly the Plan's table, and those that its parts declare; raises
    AssertionError naming the rest.

    Layers of one block do the same with tensors of their own, so each stack runs with the first layer of each block.
    """
    plan = model.plan
    declared, table = {name: t.shape for name, t in walk.tensor_specs(plan)}, {t.name: t.shape for t in plan.tensors}
    absent, unread = set(declared) - set(table), set(table) - set(declared)
    assert not absent, f"the table has no {sorted(absent)}"
    unread |= _unread(plan.model_copy(update={"stacks": tuple(_each_block_once(s) for s in plan.stacks)}))
    assert not unread, f"the forward pass never reads {sorted(unread)}"
    wrong = sorted(name for name in table if table[name] != declared[name])
    assert not wrong, f"the table has other shapes than the parts for {wrong}"


def _each_block_once(stack: StackPlan) -> StackPlan:
    return stack.model_copy(update={"order": tuple(dict.fromkeys(stack.order))})


def _unread(plan: ModelPlan) -> set[str]:
    """The tensors of a model's parts that its forward pass does not read."""
    model = Transformer(plan)
    tensors = {name: Tensor.empty(*t.shape) for name, t in walk.tensor_specs(plan)}
    names = set(tensors)
    tensors |= {n: Tensor.empty(*a.shape) for n, a in model.tables().items()}
    w = Weights(tensors, adapter=plan.adapter)
    length = min(2, plan.context)
    inputs = {"tokens": Tensor.empty(1, length, dtype="int32")}
    masked = [RANGES + name for name in masks_of(plan)]
    if plan.encoder is not None:
        source = min(3, plan.encoder_context)
        inputs[f"{ENCODER}tokens"] = Tensor.empty(1, source, dtype="int32")
        own = [f"{RANGES}{ENCODER}{name}" for name in masks_of(plan, plan.encoder)]
        inputs |= {name: Tensor.empty(1, source, 2, dtype="int32") for name in own}
        masked.append(CROSS)
    inputs |= {name: Tensor.empty(1, length, 2, dtype="int32") for name in masked}
    hidden = model.hidden(Ops(), w, inputs, block_context(inputs))
    for name, head in plan.heads.items():
        out = model.head(Ops(), w, hidden, name)
        assert out.shape[-1] == head.outputs(plan.dims), f"the head {name} gives {out.shape[-1]} outputs"
    return names - w.read
