"""Parts are picked from plain tables by their `kind:`; this turns a table into what a pydantic field needs to do so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, SerializationInfo, ValidationInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

P = TypeVar("P")


class Table(MutableMapping[str, type[P]]):
    """The kinds of a part by their names in YAML, each in the file of that name.

    A file is read when its kind is first asked for: most specs name few of all kinds, and to make the classes of all
    of them takes a third of a second. A part of somebody else is put in as a class.
    """

    def __init__(self, package: str, kinds: Mapping[str, str]) -> None:
        """`kinds` are the names of classes by kind, in files of `package`."""
        self._package, self._kinds = package, dict[str, str | type[P]](kinds)

    def __getitem__(self, kind: str) -> type[P]:
        found = self._kinds[kind]
        if isinstance(found, str):
            found = self._kinds[kind] = getattr(import_module(f"{self._package}.{kind}"), found)
        return found

    def __setitem__(self, kind: str, part: type[P]) -> None:
        self._kinds[kind] = part

    def __delitem__(self, kind: str) -> None:
        del self._kinds[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._kinds

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def default(self, kind: str) -> Callable[[], P]:
        """What makes a part of this kind with its own defaults, for a field that is left out."""
        return lambda: self[kind]()


@dataclass(frozen=True, eq=False)
class Choice:
    """Stands beside a part's base class in `Annotated`: values are read and written as the kind they are.

    The table is looked at when a value is read, so that a part may be added to it at any time.
    """

    table: Mapping[str, type[BaseModel]]
    default: str | None = None

    def kind_of(self, value: Any) -> str | None:
        """The kind of a map of settings or of a part."""
        if isinstance(value, Mapping):
            kind = value.get("kind", self.default)
            return kind if isinstance(kind, str) else str(kind)
        return getattr(value, "kind", None)

    def read(self, value: Any, info: ValidationInfo) -> BaseModel:
        """The part that a value is, or that a map of settings describes. Raises pydantic's errors."""
        kind = self.kind_of(value)
        part = self.table.get(kind) if kind is not None else None
        if part is None:
            expected = ", ".join(repr(name) for name in self.table)
            if kind is None:
                raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
            raise PydanticKnownError(
                "union_tag_invalid", {"discriminator": "'kind'", "tag": kind, "expected_tags": expected}
            )
        if info.mode == "json":  # where a list may stand for a tuple
            return part.model_validate_json(json.dumps(value))
        return part.model_validate(value)

    def __get_pydantic_core_schema__(self, base: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # In place of the base class's own schema, which would know none of the kinds' keys.
        return core_schema.with_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(written, info_arg=True)
        )


def written(part: BaseModel, info: SerializationInfo) -> dict[str, Any]:
    """A part as plain data, with the keys of its own kind."""
    return part.model_dump(
        mode=info.mode,
        by_alias=info.by_alias,
        exclude_unset=info.exclude_unset,
        exclude_defaults=info.exclude_defaults,
        exclude_none=info.exclude_none,
        round_trip=info.round_trip,
    )


def choice(table: Mapping[str, type], default: str | None = None) -> Any:
    """What makes a field hold any part of `table`; a map without `kind:` is read as `default`."""
    return Choice(table, default)
