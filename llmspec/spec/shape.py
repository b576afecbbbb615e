"""What may stand where in a spec, read off the typed schema: for layers, for messages and for editors."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmspec.core.problems import Path
from llmspec.core.table import Choice


@dataclass(frozen=True)
class Shape:
    """What one place of a spec holds: a part or section (`parts`), a map of names to these (`item`), or a plain value.

    `parts` has the classes by kind, or one class under "" where there are no kinds; a map without `kind:` is read as
    `default`.
    """

    parts: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    default: str | None = None
    item: Shape | None = None
    info: FieldInfo | None = None
    plain: bool = False
    """Whether a plain value may stand there, too, such as one number for several."""

    @property
    def has_kinds(self) -> bool:
        return bool(self.parts) and "" not in self.parts

    def kind(self, data: Any) -> str | None:
        """The kind that a map of settings is of; "" in a section without kinds, None where it does not say."""
        if not self.has_kinds:
            return ""
        kind = data.get("kind", self.default) if isinstance(data, Mapping) else None
        return kind if isinstance(kind, str) else None

    def fields(self, kind: str | None) -> dict[str, FieldInfo]:
        """Fields by YAML key."""
        return fields_of(self.parts[kind]) if kind is not None and kind in self.parts else {}

    def child(self, key: str, data: Any) -> Shape | None:
        """What `key` holds in a map with these settings; None where nothing is known of it."""
        if self.item:
            return self.item
        info = self.fields(self.kind(data)).get(key)
        return shape_of(info) if info else None

    @property
    def null_is_a_value(self) -> bool:
        """Whether `null` says something here that leaving the key out does not, such as `max_grad_norm: null`."""
        return self.info is not None and allows_none(self.info.annotation) and default_of(self.info) is not None


def fields_of(part: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by the key they have in YAML."""
    return {info.alias or name: info for name, info in part.model_fields.items()}


@cache
def _docstrings(part: type) -> dict[str, str]:
    """The strings below the fields in a class's source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    found = {}
    for line, below in itertools.pairwise(getattr(body, "body", ())):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[line.target.id] = inspect.cleandoc(text)
    return found


def description(part: type[BaseModel], key: str) -> str:
    """What a part's key means: the docstring of its field, read from the source only when somebody asks."""
    for name, info in part.model_fields.items():
        if key == (info.alias or name):
            written = (_docstrings(c).get(name) for c in (*part.__mro__, *getattr(part, "joined", ())))
            return (info.description or next((text for text in written if text), "") or "").strip()
    return ""


def default_of(info: FieldInfo) -> Any:
    """The value of a key that is left out; None where there is none, or the key is required."""
    return None if info.is_required() else info.get_default(call_default_factory=True)


def shape_of(info: FieldInfo) -> Shape:
    """The shape of a field's value."""
    return _shape(info.annotation, [*info.metadata], info)


def _shape(annotation: Any, metadata: list[Any], info: FieldInfo | None) -> Shape:
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*metadata, *more]
    for hint in (annotation, *metadata):
        if found := _choice(hint):
            return Shape(found.table, found.default, info=info)
    if is_union(annotation):  # a part that may be left out, or stand for less than it could say
        present = [a for a in get_args(annotation) if a is not type(None)]
        shapes = [_shape(a, [], info) for a in present]
        if len(parts := [s for s in shapes if s.parts]) == 1:
            return replace(parts[0], plain=len(present) > 1)
    if get_origin(annotation) is dict:
        item = _shape(get_args(annotation)[1], [], None)
        return Shape(item=item, info=info) if item.parts else Shape(info=info)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Shape({"": annotation}, info=info)
    return Shape(info=info)


def _annotations(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _choice(hint: Any) -> Choice | None:
    """The table of parts that stands in a field's type; None for any other type."""
    return next((h for h in (hint, *_annotations(hint)) if isinstance(h, Choice)), None)


def is_union(annotation: Any) -> bool:
    """Whether a type is a union, however it is written."""
    return get_origin(annotation) in (Union, types.UnionType)


def allows_none(annotation: Any) -> bool:
    """Whether a type is a union with None."""
    return is_union(annotation) and type(None) in get_args(annotation)


@cache
def spec_shape() -> Shape:
    """The shape of a whole spec."""
    from llmspec.spec.schema import Spec

    return Shape({"": Spec})


def places() -> dict[str, tuple[str, ...]]:
    """Every key of the schema -> where it stands, such as lr -> (`phases.<name>.optimizer`,)."""
    found: dict[str, dict[str, None]] = {}
    for path, key in _keys(spec_shape(), ()):
        found.setdefault(key, {})[".".join(str(step) for step in path)] = None
    return {key: tuple(where) for key, where in found.items()}


def _keys(shape: Shape, path: Path, around: tuple[type, ...] = ()) -> Iterator[tuple[Path, str]]:
    """Keys in a shape; a part that holds parts of its own table, of which it is one, is looked into once."""
    if shape.item:
        yield from _keys(shape.item, (*path, "<name>"), around)
    for kind, part in shape.parts.items():
        for key, info in shape.fields(kind).items() if part not in around else ():
            yield path, key
            yield from _keys(shape_of(info), (*path, key), (*around, part))


def expected(annotation: Any) -> str:
    """What a value of this type is, for reading, such as `a whole number` or `text or a list`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return expected(get_args(annotation)[0])
    if is_union(annotation):
        return " or ".join(dict.fromkeys(expected(a) for a in get_args(annotation) if a is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if origin is tuple:
        return "a list"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "a map"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(annotation, "a value")
