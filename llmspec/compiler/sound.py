"""Whether a plan that was read from a file says one and the same thing everywhere, before anything is made by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from pydantic import ValidationError

from llmspec.compiler import walk
from llmspec.compiler.memory import decoding_bytes, device_memory, tables
from llmspec.compiler.network import stacks_of
from llmspec.compiler.others import unfit
from llmspec.compiler.phase_model import phase_models
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.compiler.plan_settings import model_settings
from llmspec.core.units import size
from llmspec.spec.schema import ModelSpec

FORBIDDEN = {"", ".", ".."}
FLOAT = 4


def contradictions(plan: Plan) -> Iterator[str]:
    """What is wrong with a plan, in words; nothing is allocated, whatever its numbers say."""
    before: set[str] = set()
    for planned in plan.phases:
        if not plain_name(planned.name):
            yield f"a phase is called {planned.name[:80]!r}, which cannot name a folder"
        if planned.name in before:
            yield f"two phases are called {planned.name}"
        if planned.phase.parent and planned.phase.parent not in before:
            yield f"{planned.name} starts from {planned.phase.parent}, which does not come before it"
        before.add(planned.name)
    if plan.tokenizer.size() > plan.model.vocab:
        yield f"its tokenizer has {plan.tokenizer.size():,} tokens, and its model {plan.model.vocab:,}"
    try:
        wrong = False
        for what in model_contradictions(plan.model):
            wrong = True
            yield what
        if not wrong:
            yield from phase_contradictions(plan)
    except (ArithmeticError, AttributeError, TypeError, ValueError) as e:
        yield f"its model cannot be built: {e}"


def phase_contradictions(plan: Plan) -> Iterator[str]:
    """Phases whose model is not the plan's with the heads that they add and what they freeze."""
    phases = {p.name: p.phase for p in plan.phases}
    models, problems = phase_models(plan.model, phases, tuple(phases))
    yield from (p.message for p in problems)
    for planned in plan.phases:
        if planned.model != models[planned.name]:
            yield f"the model of {planned.name} is not the plan's with its heads and what it freezes"
        for role, other in planned.others.items():
            own = {o.role: o for o in planned.phase.others()}.get(role)
            if own is None or own.phase != other.phase or (other.phase and other.model != models.get(other.phase)):
                yield f"the {role} of {planned.name} is not the one that its phase names"
                continue
            yield from model_contradictions(other.model)
            yield from (p.message for p in unfit(own, other.model, planned.model))


def plain_name(name: str) -> bool:
    """Whether a name is that of one folder, and of none outside or hidden."""
    return name not in FORBIDDEN and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\:")


def model_contradictions(model: ModelPlan) -> Iterator[str]:
    """What is wrong with a model's plan: dimensions, parts, tensors."""
    for name in ("d_model", "layers", "context", "vocab"):
        if getattr(model, name) < 1:
            yield f"model.{name} is {getattr(model, name):,}"
            return
    if not 1 <= len(model.stacks) <= 2:
        yield f"it has {len(model.stacks):,} stacks"
        return
    for stack in model.stacks:
        if stack.context is not None and stack.context < 1:
            yield f"the context of its {stack.name} is {stack.context:,}"
            return
        if outside := [i for i in stack.order if not 0 <= i < len(stack.blocks)]:
            yield f"a layer is of block {outside[0]}, of {len(stack.blocks)}"
            return
    for piece in walk.walk(model):
        yield from (p.message for p in piece.part.check(piece.dims))
    found = [(t.name, t.shape, t.role) for t in model.tensors]
    # One more than the table has: a number of layers is not believed either.
    wanted = [(name, t.shape, t.role) for name, t in islice(walk.tensor_specs(model), len(found) + 1)]
    if found != wanted:
        wrong = next((w for f, w in zip(found, wanted, strict=False) if f != w), (wanted or found)[-1])
        yield f"its table of tensors is not that of its model: {wrong[0]} {list(wrong[1])} is not there"
    else:
        yield from block_contradictions(model)
    if any(t.dtype != "float32" for t in model.tensors):
        yield "some of its tensors are no float32"


def block_contradictions(model: ModelPlan) -> Iterator[str]:
    """Whether the spec that a model's plan follows from is none, or gives other blocks."""
    if [stack.name for stack in model.stacks] not in (["decoder"], ["encoder", "decoder"]):
        yield "its stacks are not one decoder, with or without an encoder before it"
        return
    if (model.decoder_start is None) != (model.encoder is None):
        yield "what the decoder's text begins with is said without an encoder, or not said with one"
        return
    settings = model_settings(model.model_dump(mode="json", by_alias=True))
    try:
        spec = ModelSpec.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        yield f"its model.{'.'.join(map(str, found['loc']))} is wrong: {found['msg'].lower()}"
        return
    if stacks_of(spec) != model.stacks:
        yield "its blocks are not those that its settings make"


def too_large(plan: Plan) -> str:
    """Why this machine cannot hold the model to decode with it, '' where it can or nobody knows."""
    model, here = plan.model, device_memory(plan.device)
    if here is None:
        return ""
    need = FLOAT * (model.parameters + tables(model)) + decoding_bytes(model, 1)
    if need <= here:
        return ""
    return (
        f"its weights and what decoding keeps at a context of {model.context:,} tokens take {size(need)}, and this "
        f"machine has {size(here)}"
    )
