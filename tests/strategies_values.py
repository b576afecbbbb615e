"""Values of settings by their types and limits, and parts of every table made of them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmspec.core.units import Share
from llmspec.parts import (
    adapters,
    attentions,
    embeddings,
    heads,
    inits,
    masks,
    mlps,
    norms,
    objectives,
    optimizers,
    phases,
    positions,
    rewards,
    rope_scalings,
    schedules,
    sources,
    templates,
    tokenizers,
)
from llmspec.parts.schedules.base import Span
from llmspec.parts.sources import Validation
from llmspec.spec.shape import fields_of

Data = dict[str, Any]
TABLES: dict[str, Mapping[str, type]] = {
    "position": positions.TABLE,
    "rope_scaling": rope_scalings.TABLE,
    "attention": attentions.TABLE,
    "mlp": mlps.TABLE,
    "norm": norms.TABLE,
    "mask": masks.TABLE,
    "embedding": embeddings.TABLE,
    "head": heads.TABLE,
    "init": inits.TABLE,
    "tokenizer": tokenizers.TABLE,
    "chat_template": templates.TABLE,
    "source": sources.TABLE,
    "phase": phases.TABLE,
    "optimizer": optimizers.TABLE,
    "schedule": schedules.TABLE,
    "objective": objectives.TABLE,
    "adapter": adapters.TABLE,
    "reward": rewards.TABLE,
}
BY_NAME: dict[str, SearchStrategy[Any]] = {
    "lr": st.sampled_from([1e-3, 3e-3]),
    "classes": st.integers(1, 8),
    "mean_noise_span_length": st.sampled_from([1.0, 1.5, 3.0]),
}
"""Values for keys whose limits allow more than a short training bears."""
SHARES = st.integers(1, 99).map(lambda n: f"{n}%")


def value_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> SearchStrategy[Any] | None:
    """Values of a field's type within its limits; None for types that only a hand can fill."""
    if hasattr(annotation, "__metadata__"):
        return value_of(get_args(annotation)[0], (*metadata, *annotation.__metadata__))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        members = [value_of(a, metadata) for a in arguments if a is not type(None)]
        known = [m for m in members if m is not None]
        return st.one_of(*([st.none()] if type(None) in arguments else []), *known) if known else None
    if origin is Literal:
        return st.sampled_from(arguments)
    if annotation is Share:
        return SHARES
    if annotation is Span:
        return st.one_of(st.integers(0, 50).map(lambda n: f"{n}%"), st.just("1 steps"))
    if annotation is Validation:
        return st.sampled_from(["tail 10%", "hash 20%"])
    limits = {
        name: v
        for rule in metadata
        for name in ("gt", "ge", "lt", "le")
        if (v := getattr(rule, name, None)) is not None
    }
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        low = limits.get("ge", limits.get("gt", -8) + ("ge" not in limits))
        return st.integers(low, min(limits.get("le", low + 8), limits.get("lt", low + 9) - 1, low + 8))
    return _number(limits) if annotation is float else None


def _number(limits: dict[str, float]) -> SearchStrategy[float]:
    low, high = limits.get("ge", limits.get("gt", 0.0)), limits.get("le", limits.get("lt", 4.0))
    inner = [low + (high - low) * share for share in (0.125, 0.25, 0.5, 0.875)]
    ends = [v for k, v in limits.items() if k in ("ge", "le")]
    return st.sampled_from([*inner, *ends])


def settings(part: type[BaseModel], *, skip: tuple[str, ...] = ()) -> SearchStrategy[Data]:
    """A map of some of a part's settings, each within its limits, with its `kind` if it has one."""
    fields: dict[str, FieldInfo] = {k: v for k, v in fields_of(part).items() if k not in ("kind", *skip)}
    typed = {k: BY_NAME[k] if k in BY_NAME else value_of(v.annotation, tuple(v.metadata)) for k, v in fields.items()}
    drawn = {k: strategy for k, strategy in typed.items() if strategy is not None}
    needed = {k: s for k, s in drawn.items() if fields[k].is_required() or k == "classes"}
    kind = {"kind": st.just(get_args(part.model_fields["kind"].annotation)[0])} if "kind" in part.model_fields else {}
    optional = {k: s for k, s in drawn.items() if k not in needed}
    return st.fixed_dictionaries({**kind, **needed}, optional=optional).map(shared_out)


def shared_out(objective: Data) -> Data:
    """The same, where shares of masked tokens are together no more than 1, lengths are in their order, and no key does
    nothing with a loss or without others."""
    if objective.get("kind") == "words":
        objective = {**objective, "include": ["cat", "the mat"]}
    if objective.get("kind") == "length" and objective.get("most"):
        objective = {**objective, "most": max(objective["most"], objective.get("least", 1))}
    if objective.get("rejected_from"):
        objective = {**objective, "prompt": "{q}", "chosen": "{a}"}
    if objective.get("kind") == "dpo":
        if objective.get("loss") in ("hinge", "ipo"):
            objective = {k: v for k, v in objective.items() if k not in ("label_smoothing", "target_margin")}
        elif objective.get("loss") == "robust":
            objective["label_smoothing"] = 0.125
    if "mask_replace_prob" in objective or "random_replace_prob" in objective:
        objective["random_replace_prob"] = (1 - objective.get("mask_replace_prob", 0.8)) / 2
    return objective


def required(part: type[BaseModel]) -> dict[str, int]:
    """Settings without a default, and how many classes there are, where labels might say that too."""
    needed = (key for key, info in part.model_fields.items() if info.is_required() or key == "classes")
    return {key: {"teacher": "pretrain"}.get(key, 3) for key in needed}


def rewarded(phase: type[BaseModel]) -> dict[str, Any]:
    """A reward, for phases that need one."""
    info = phase.model_fields.get("reward")
    return {"reward": {"kind": "ended"}} if info is not None and info.is_required() else {}


def parts(table: str, *, skip: tuple[str, ...] = ()) -> SearchStrategy[Data]:
    """Settings of any entry of a table of `TABLES`."""
    return st.sampled_from(list(TABLES[table].values())).flatmap(lambda part: settings(part, skip=skip))


@st.composite
def named_turns(draw: DrawFn, sources: Data) -> Data:
    """Some sources get their turns by the name of a template, which is the spec's own."""
    templates: Data = {}
    for found in sources.values():
        if isinstance(found.get("dialogue"), dict) and draw(st.booleans()):
            templates["templates"] = {"mine": found.pop("dialogue")}
            found["template"] = "mine"
    return templates
