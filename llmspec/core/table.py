"""Parts are picked from plain tables by their `kind:`; this turns a table into what a pydantic field needs to do so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union

from pydantic import Discriminator, GetCoreSchemaHandler, Tag


@dataclass(frozen=True, eq=False)
class Choice:
    """Stands beside a part's base class in `Annotated`: values are read and written as the kind they are."""

    table: Mapping[str, type]
    default: str | None = None

    def kind_of(self, value: Any) -> str | None:
        """The kind of a map of settings or of a part."""
        if isinstance(value, Mapping):
            kind = value.get("kind", self.default)
            return kind if isinstance(kind, str) else str(kind)
        return getattr(value, "kind", None)

    def __get_pydantic_core_schema__(self, base: Any, handler: GetCoreSchemaHandler) -> Any:
        # In place of the base class's own schema, which would know none of the kinds' keys.
        members = tuple(Annotated[part, Tag(kind)] for kind, part in self.table.items())
        union = Annotated[Union[members], Discriminator(self.kind_of)]  # type: ignore[valid-type]  # noqa: UP007
        return handler.generate_schema(union)


def choice(table: Mapping[str, type], default: str | None = None) -> Any:
    """What makes a field hold any part of `table`; a map without `kind:` is read as `default`."""
    return Choice(table, default)
