"""Whether two plans of models are the same network: what each layer is, whatever its blocks are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llmspec.compiler.draft import Draft
from llmspec.compiler.network import model_plan, resolve_parts
from llmspec.compiler.plan import BlockPlan, ModelPlan, StackPlan
from llmspec.spec.check import Sections
from llmspec.spec.schema import ModelSpec

LAYER = ("attention", "cross_attention", "mask", "mlp", "norm", "residual", "position")
"""What a layer is made of."""
EVERY = "every"
"""All layers of a stack."""


def planned(model: ModelSpec) -> ModelPlan:
    """The plan of a model that says how large its vocabulary is."""
    draft = resolve_parts(Draft(replace(Sections(), model=model)))
    assert draft.sections.model is not None and model.vocab is not None
    return model_plan(draft.sections.model, model.vocab)


def settings_of(model: ModelPlan) -> dict[str, Any]:
    """The settings of a model by the first layer of its decoder: `every` are all of them, in their order. Those of an
    encoder stand under `encoder`."""
    dumped = model.model_dump(mode="json", by_alias=True)
    found = {k: dumped[k] for k in ("d_model", "context", "vocab", "embedding", "heads")}
    *encoders, decoder = (_stack(stack, own) for stack, own in zip(dumped["stacks"], model.stacks, strict=True))
    for own in encoders:
        found["encoder"] = {**own, "context": model.encoder_context, "decoder_start": model.decoder_start}
    return {**found, **decoder}


def _stack(dumped: Mapping[str, Any], stack: StackPlan) -> dict[str, Any]:
    """A stack of blocks by its first layer."""
    blocks = [_block(block, own) for block, own in zip(dumped["blocks"], stack.blocks, strict=True)]
    every = [blocks[i] for i in dumped["order"]]
    return {**every[0], "final_norm": dumped["final_norm"], "layers": len(every), EVERY: every}


def _block(dumped: Mapping[str, Any], block: BlockPlan) -> dict[str, Any]:
    """A block as a family's tables say it: attention by the number of heads that keep keys and values, and nothing of
    what only training does."""
    found = {k: dumped[k] for k in LAYER if dumped[k] is not None}
    found["mlp"] = {k: v for k, v in dumped["mlp"].items() if k not in block.mlp.in_training}
    for name, part in (("attention", block.attention), ("cross_attention", block.cross_attention)):
        if part is not None:
            found[name] = {**found[name], "kind": "grouped_query", "kv_heads": part.key_value_heads()}
    return found


def differences(wanted: ModelPlan, made: ModelPlan) -> list[str]:
    """What differs between two networks, by the paths of settings; nothing where they compute the same."""
    if [s.name for s in wanted.stacks] != [s.name for s in made.stacks]:
        return ["model.encoder"]
    a, b = settings_of(wanted), settings_of(made)
    found = [f"{path}: {x} and {y}" for path, x, y in _apart(_flat(a), _flat(b))]
    if not found:
        found = _layers_apart("", a[EVERY], b[EVERY])
    if not found and "encoder" in a:
        found = _layers_apart("encoder's ", a["encoder"][EVERY], b["encoder"][EVERY])
    shapes = [{t.name: t.shape for t in plan.tensors} for plan in (wanted, made)]
    if not found and shapes[0] != shapes[1]:
        found = ["its tensors"]
    return found


def _layers_apart(stack: str, a: list[Any], b: list[Any]) -> list[str]:
    """What differs in the first layer that does."""
    layer = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
    if layer is None:
        return []
    return [f"{stack}layer {layer}, {path}: {x} and {y}" for path, x, y in _apart(_flat(a[layer]), _flat(b[layer]))]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key != EVERY:
                yield from _flat(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _apart(a: Iterator[tuple[str, Any]], b: Iterator[tuple[str, Any]]) -> list[tuple[str, Any, Any]]:
    one, other = dict(a), dict(b)
    paths = dict.fromkeys((*one, *other))
    return [(p, one.get(p), other.get(p)) for p in paths if one.get(p) != other.get(p)]
