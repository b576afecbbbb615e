"""Whether two plans of models are the same network: what each layer is, whatever its blocks are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llmspec.compiler.draft import Draft
from llmspec.compiler.network import model_plan, resolve_parts
from llmspec.compiler.plan import ModelPlan
from llmspec.spec.check import Sections
from llmspec.spec.schema import ModelSpec

LAYER = ("attention", "mask", "mlp", "norm", "residual", "position")
"""What a layer is made of."""


def planned(model: ModelSpec) -> ModelPlan:
    """The plan of a model that says how large its vocabulary is."""
    draft = resolve_parts(Draft(replace(Sections(), model=model)))
    assert draft.sections.model is not None and model.vocab is not None
    return model_plan(draft.sections.model, model.vocab)


def settings_of(model: ModelPlan) -> dict[str, Any]:
    """The settings of a model by its first layer: `layers` are all of them, in their order."""
    dumped = model.model_dump(mode="json", by_alias=True)
    (stack,) = dumped["stacks"]
    found = {k: dumped[k] for k in ("d_model", "context", "vocab", "embedding", "heads")}
    blocks = [_block(block, own) for block, own in zip(stack["blocks"], model.stacks[0].blocks, strict=True)]
    every = [blocks[i] for i in stack["order"]]
    return {**found, **every[0], "final_norm": stack["final_norm"], "layers": len(every), "every": every}


def _block(dumped: Mapping[str, Any], block: Any) -> dict[str, Any]:
    """A block as a family's tables say it: attention by the number of heads that keep keys and values."""
    found = {k: dumped[k] for k in LAYER}
    kind = {"kind": "grouped_query", "kv_heads": block.attention.key_value_heads()}
    return {**found, "attention": {**{k: v for k, v in dumped["attention"].items() if k != "kind"}, **kind}}


def differences(wanted: ModelPlan, made: ModelPlan) -> list[str]:
    """What differs between two networks, by the paths of settings; nothing where they compute the same."""
    if [s.name for s in wanted.stacks] != [s.name for s in made.stacks]:
        return ["model.encoder"]
    a, b = settings_of(wanted), settings_of(made)
    found = [f"{path}: {x} and {y}" for path, x, y in _apart(_flat(a), _flat(b)) if not path.startswith("every.")]
    if a["every"] != b["every"] and not found:
        layer = next(i for i, (x, y) in enumerate(zip(a["every"], b["every"], strict=True)) if x != y)
        pairs = _apart(_flat(a["every"][layer]), _flat(b["every"][layer]))
        found = [f"layer {layer}, {path}: {x} and {y}" for path, x, y in pairs]
    shapes = [{t.name: t.shape for t in plan.tensors} for plan in (wanted, made)]
    if not found and shapes[0] != shapes[1]:
        found = ["its tensors"]
    return found


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _flat(below, f"{path}.{key}" if path else str(key))
    elif not isinstance(value, list) or path != "every":
        yield path, value


def _apart(a: Iterator[tuple[str, Any]], b: Iterator[tuple[str, Any]]) -> list[tuple[str, Any, Any]]:
    one, other = dict(a), dict(b)
    paths = dict.fromkeys((*one, *other))
    return [(p, one.get(p), other.get(p)) for p in paths if one.get(p) != other.get(p)]
