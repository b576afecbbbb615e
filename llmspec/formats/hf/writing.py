"""A model's plan -> config.json, by the same mapping tables, each proposal read back before it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem, RunError
from llmspec.formats.hf import dropout, labelled, rope
from llmspec.formats.hf.family import Architecture, Family, FromField, Layers, RopeOf, Rule, Shared, families
from llmspec.formats.hf.family import shared as in_common
from llmspec.formats.hf.reading import read_config
from llmspec.formats.hf.same_model import differences, planned, settings_of
from llmspec.formats.hf.values import MISSING, backward, forward, get
from llmspec.spec.schema import ModelSpec

CONTEXT = "context"
STAND_INS = {"bos": 1, "eos": 2, "pad": 3}
"""Ids of special tokens while a config is tried, before there is a tokenizer."""


class Config(NamedTuple):
    """A config.json that reads back as the very model."""

    family: Family
    architecture: str
    of: Architecture
    """That class, with the model's head."""
    fields: dict[str, Any]


def config_of(model: ModelPlan, prefer: str = "", only: str = "") -> Config:
    """The config.json of a model: of the family `prefer` where that has its parts, else of the first that does, in
    alphabetical order; with `only` of that one. Raises RunError where no family has such a model, with what each lacks.
    """
    known = families()
    if only and only not in known:
        raise RunError(f"no mapping table is called `{only}`", hint=f"there are: {', '.join(known)}")
    names = [only] if only else sorted(known, key=lambda name: (prefer not in (name, known[name].model_type), name))
    nearest: tuple[str, str, list[str]] | None = None
    for name in names:
        for architecture, ending in known[name].architectures.items():
            if (of := labelled.suits(ending, model)) is None:
                continue
            fields = proposed(model, known[name], architecture, of)
            wrong = _wrong(model, {**fields, **token_fields(model, known[name], of, STAND_INS)})
            if not wrong:
                return Config(known[name], architecture, of, fields)
            if nearest is None or len(wrong) < len(nearest[2]):
                nearest = name, architecture, wrong
    if nearest is None:
        raise RunError(
            f"no class of {only or 'transformers'} ends in such heads: {', '.join(model.heads)}",
            hint="those that are known have one head, for tokens of the vocabulary, labels or a number",
            consequence="what it was trained for could not be written",
        )
    raise RunError(_refused(model, *nearest, only))


def _refused(model: ModelPlan, name: str, architecture: str, wrong: list[str], only: str) -> Problem:
    """Why no family has a model, by the one that comes nearest."""
    of = families()[name].architectures[architecture]
    apart = "; ".join(wrong[:4])
    if of.labelled is not None and all(one.startswith("heads.") for one in wrong):
        (head,) = model.heads
        return Problem(
            f"{architecture} has another head than this model, which differs in (here and there) {apart}",
            hint=f"train with the head that it has: heads: {{{head}: {{{labelled.advised(of, head)}}}}}",
            consequence="transformers would compute something else",
        )
    return Problem(
        f"no family of transformers{' called ' + only if only else ''} has a model of these parts",
        hint=f"nearest is {name}, which differs in (here and there) {apart}",
        consequence="transformers would compute something else",
    )


def _wrong(model: ModelPlan, fields: Mapping[str, Any]) -> list[str]:
    """What of a model a proposed config.json does not say."""
    found = read_config(fields)
    if isinstance(found, list) or found.problems:
        return [p.message for p in (found if isinstance(found, list) else found.problems)]
    try:
        made = planned(ModelSpec.model_validate_json(json.dumps(found.model)))
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    except (ArithmeticError, ValueError, TypeError, RunError) as error:
        return [str(error)]
    return differences(model, made)


def proposed(model: ModelPlan, family: Family, architecture: str, of: Architecture) -> dict[str, Any]:
    """What a family's config.json would have to say for a model, as far as it can. `of`: the class of that name."""
    settings = settings_of(model)
    config: dict[str, Any] = {"architectures": [architecture], "model_type": family.model_type, "dtype": "float32"}
    config |= fields_of(settings, family, of, in_common())
    if family.architectures[architecture].labelled is not None:
        config |= labelled.written(*next(iter(model.heads.items())))
    if family.layers is not None:
        _layers(family, settings, config)
    elif isinstance(family.rope, RopeOf):
        _rope(settings["position"], config, None)
    config |= dropout.fields_of(model.drops, family, in_common())
    return config


def fields_of(settings: Mapping[str, Any], family: Family, of: Architecture, common: Shared) -> dict[str, Any]:
    """What a table's fields say of settings, as far as they can; those that follow from others are left out.
    `common`: what all tables of the format share."""
    config: dict[str, Any] = {}
    for name, rule in {**family.fields, **of.fields}.items():
        value = _field(rule, settings, config, common)
        if value is not MISSING:
            config[name] = value
    for name, rule in family.fields.items():
        if isinstance(rule.absent, dict) and name in config and config[name] == derived(rule.absent, config):
            del config[name]
    return config


def derived(absent: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """What a field is where it is left out and follows from others; MISSING where that cannot be said."""
    ((how, of),) = absent.items()
    numbers: list[Any] = [config.get(n) if isinstance(n, str) else n for n in ([of] if how == "same_as" else of)]
    if not all(isinstance(n, int) for n in numbers):
        return MISSING
    return numbers[0] if how == "same_as" else numbers[0] * numbers[1] if how == "product" else numbers[0] // numbers[1]


def token_fields(
    model: ModelPlan, family: Family, of: Architecture, ids: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Fields with ids of special tokens that a model knows by their meaning. `ids`: by meaning."""
    found: dict[str, int | None] = {}
    rules = {**family.fields, **of.fields}
    for name, rule in rules.items():
        if rule.meanings:
            found |= {f"{meaning}_token_id": ids[meaning] for meaning in rule.meanings if ids[meaning] is not None}
            meaning = get(settings_of(model), rule.to[0])
            found |= {name: ids[meaning]} if meaning in rule.meanings else {}
    return found


def _field(rule: Rule, settings: Mapping[str, Any], config: Mapping[str, Any], common: Shared) -> Any:
    """What a field says of settings; `config`: what the fields before it say. MISSING where it cannot be said."""
    if rule.choose:
        choices = common.choices[rule.choose] if isinstance(rule.choose, str) else rule.choose
        for value, chosen in choices.items():
            if all(get(settings, path) == _setting(setting, config) for path, setting in chosen.items()):
                return {"true": True, "false": False, "null": None}.get(value, value)
        return MISSING
    if not rule.to or rule.meanings:
        return MISSING  # ids, which the tokenizer says; and types of layers, which are written out
    if rule.to[0] == CONTEXT:
        scaling = (settings["position"] or {}).get("scaling") or {}
        context = scaling["original_context"] if scaling.get("kind") == "dynamic" else settings[CONTEXT]
        return backward(context, rule.via)
    value = get(settings, rule.to[0])
    if value is MISSING or value is None:
        return None if rule.nullable else MISSING
    return backward(value, rule.via)


def _setting(setting: Any, config: Mapping[str, Any]) -> Any:
    """A setting of a table: the value, or what it is by a field; None where that is not said."""
    if not isinstance(setting, dict):
        return setting
    rule = FromField.model_validate(setting)
    return forward(config[rule.field], rule.via) if rule.field in config else None


def _layers(family: Family, settings: Mapping[str, Any], config: dict[str, Any]) -> None:
    """`layer_types`, and what each type says."""
    layers = family.layers
    assert layers is not None
    types = layer_types(layers, settings)
    config |= _named(layers, types)
    positions = {}
    for name in dict.fromkeys(types):
        layer = settings["every"][types.index(name)]
        positions[name] = layer["position"]
        config |= layer_fields(layers, name, layer)
    if isinstance(family.rope, RopeOf):
        _rope(settings["position"], config, None)
    elif family.rope is not None:
        for name, of in family.rope.items():
            _rope(positions.get(name, {"kind": "rope", "theta": of.theta}), config, name)


def layer_types(layers: Layers, settings: Mapping[str, Any]) -> list[str]:
    """The type of each layer: that whose settings it has; the first where it fits none."""
    paths = {path for kind in layers.kinds.values() for path in kind.settings}
    types = []
    for layer in settings["every"]:
        here = {path for path in paths if get(layer, path) not in (MISSING, None)}
        fits = [name for name, kind in layers.kinds.items() if set(kind.settings) == here]
        types.append(fits[0] if fits else next(iter(layers.kinds)))
    return types


def layer_fields(layers: Layers, name: str, layer: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields of a type of layers say of such a layer."""
    config = dict(layers.kinds[name].config)
    for path, setting in layers.kinds[name].settings.items():
        if isinstance(setting, dict):
            rule = FromField.model_validate(setting)
            config[rule.field] = backward(get(layer, path), rule.via)
    return config


def _named(layers: Layers, types: list[str]) -> dict[str, Any]:
    """What says the types of layers: how many are of the first one, where a family has no other way, or all of them."""
    (rule, *others), types = layers.absent, list(types)
    if rule.since is not None and not rule.when and not others:
        first = types.count(rule.otherwise)
        if types == [rule.otherwise] * first + [rule.then] * (len(types) - first):
            return {rule.since: first}
    return {layers.field: types}


def _rope(position: Mapping[str, Any], config: dict[str, Any], kind: str | None) -> None:
    if position.get("kind") != "rope":
        return
    written = rope.written(position)
    if kind is None:
        config[rope.FIELD] = written
    else:
        config.setdefault(rope.FIELD, {})[kind] = written
