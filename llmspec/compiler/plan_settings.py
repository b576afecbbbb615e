"""The settings of a spec that a dumped plan follows from: nothing computed, every default written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def by_path(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of nested tables by its path in a spec."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from by_path(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def model_settings(model: dict[str, Any]) -> dict[str, Any]:
    """The `model:` of a spec that a dumped ModelPlan follows from: nothing computed, every block written out."""
    *encoders, decoder = model["stacks"]
    shared = {k: model[k] for k in ("context", "d_model", "embedding", "position", "norm", "heads", "dropout")}
    shared |= {"init": model["init"]} if model["init"] is not None else {}
    for stack in encoders:
        own = {"context": stack["context"], "position": stack["position"], "decoder_start": model["decoder_start"]}
        own |= {"norm": stack["final_norm"]} if stack["final_norm"] else {}
        shared["encoder"] = {**own, **stack_settings(stack, stack["position"])}
    return {**shared, **stack_settings(decoder, model["position"])}


def stack_settings(stack: dict[str, Any], position: Any) -> dict[str, Any]:
    """What a spec says of a dumped stack of blocks, whose position is `position` where they have none of their own."""
    left_out = [("position", position), ("cross_attention", None)]
    blocks = {
        block["name"]: {k: v for k, v in block.items() if k not in ("name", "position_name") and (k, v) not in left_out}
        for block in stack["blocks"]
    }
    names = [stack["blocks"][i]["name"] for i in stack["order"]]
    if len(blocks) == 1 and "block" in blocks:
        return {"layers": len(names), **blocks["block"]}
    return {"layers": len(names), "blocks": blocks, "pattern": period(names)}


def period(names: list[str]) -> list[str]:
    """The shortest list that gives `names` where it is repeated."""
    return next(names[:n] for n in range(1, len(names) + 1) if all(a == names[i % n] for i, a in enumerate(names)))
