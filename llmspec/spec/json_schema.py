"""JSON Schema of a spec, for editors: what completes, what it means, what it is when left out.

Looser than `check`, which has the last word: a file that extends another may leave out keys that are required, and
any key may be `null`, which removes what is inherited.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmspec.core.units import Text
from llmspec.parts.base import Part, limits, name_of
from llmspec.parts.others import StartModel
from llmspec.spec.shape import Shape, default_of, description, shape_of, spec_shape

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def json_schema() -> dict[str, Any]:
    """The schema, as plain data."""
    shape = spec_shape()
    (spec,) = shape.parts.values()
    definitions: dict[str, Any] = {}
    root = _section(spec, "", definitions)
    required = [key for key, info in shape.fields("").items() if info.is_required()]
    paths = {"type": "string", "description": "Path of a spec, relative to this file."}
    below = [paths, _section(StartModel, "", definitions)]
    root["properties"] = {
        "extends": {
            "description": "Specs below this one: maps merge, lists and mixtures are replaced, a changed `kind` "
            "replaces its whole map, `null` removes. Of a model of others, what its files say is such a layer.",
            "anyOf": [*below, {"type": "array", "items": {"anyOf": below}}],
        },
        **root["properties"],
    }
    return {
        "$schema": DIALECT,
        "title": "llmspec",
        **root,
        "$defs": definitions,
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": required},
    }


def as_text() -> str:
    """The schema as the text of a file; `specs/schema.json` holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _section(part: type[BaseModel], kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """One part or section: its keys and nothing else."""
    properties: dict[str, Any] = {}
    for key, info in Shape({kind: part}).fields(kind).items():
        if key == "kind":
            properties[key] = {"const": kind or info.default, "description": _summary(part)}
            continue
        schema = _described(_value(shape_of(info), info, definitions), description(part, key))
        if not info.is_required():
            schema["default"] = _plain(default_of(info))
        properties[key] = schema
    return {"type": "object", "description": _summary(part), "properties": properties, "additionalProperties": False}


def _value(shape: Shape, info: FieldInfo | None, definitions: dict[str, Any]) -> dict[str, Any]:
    if shape.item is not None:
        return {"type": "object", "additionalProperties": _value(shape.item, None, definitions)}
    if shape.parts:
        refs = [{"$ref": f"#/$defs/{_define(part, kind, definitions)}"} for kind, part in shape.parts.items()]
        plain = list[dict[str, Any]]()
        if shape.plain and shape.info is not None:
            members = [
                a for a in get_args(shape.info.annotation) if a not in shape.parts.values() and a is not type(None)
            ]
            plain = [{**_plain_type(a), **_limits(limits(a))} for a in members]
        return {"anyOf": [*refs, *plain, {"type": "null"}]}
    assert info is not None
    return {**_nullable(_plain_type(info.annotation)), **_limits(info.metadata)}


def _limits(rules: Iterable[Any]) -> dict[str, Any]:
    """What rules say of a value."""
    schema = dict[str, Any]()
    for rule in rules:
        for name, word in _BOUNDS.items():
            if (bound := getattr(rule, name, None)) is not None:
                schema[word] = bound
        if pattern := getattr(rule, "pattern", None):
            schema["pattern"] = str(pattern)
    return schema


def _define(part: type[BaseModel], kind: str, definitions: dict[str, Any]) -> str:
    """The name of a part's definition, made on first use: its folder and file, which no two parts share."""
    name = name_of(part) if kind and issubclass(part, Part) else part.__name__
    if name not in definitions:
        definitions[name] = {}  # a part may hold itself
        definitions[name] = _section(part, kind, definitions)
    return name


def _plain_type(annotation: Any) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _plain_type(arguments[0])
    if origin in (Union, types.UnionType):
        return {"anyOf": [_plain_type(a) for a in arguments if a is not type(None)]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _plain_type(arguments[0])}
    if origin is dict:
        names = _plain_type(arguments[0])
        keys = {"propertyNames": names} if "enum" in names else {}
        return {"type": "object", "additionalProperties": _plain_type(arguments[1]), **keys}
    if isinstance(annotation, type) and issubclass(annotation, Text):
        return annotation.__get_pydantic_json_schema__(None, None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {"type": "object"}
    return {"type": _TYPES[annotation]} if annotation in _TYPES else {}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    return {"anyOf": [*schema["anyOf"], {"type": "null"}]} if "anyOf" in schema else schema


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {**schema, "description": text} if text else schema


def _summary(part: type) -> str:
    return (part.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(below) for name, below in value.items()}
    return list(value) if isinstance(value, tuple) else value
