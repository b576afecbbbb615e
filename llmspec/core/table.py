"""Parts are picked from plain tables by their `kind:`; this turns a table into a pydantic type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import Discriminator, Tag


def choice(table: Mapping[str, type], default: str | None = None) -> Any:
    """The type of a field that holds any part of `table`; a map without `kind:` is read as `default`."""

    def kind_of(value: Any) -> str | None:
        if isinstance(value, Mapping):
            kind = value.get("kind", default)
            return kind if isinstance(kind, str) else str(kind)
        return getattr(value, "kind", None)

    members = tuple(Annotated[part, Tag(kind)] for kind, part in table.items())
    return Annotated[Union[members], Discriminator(kind_of)]  # type: ignore[valid-type]  # noqa: UP007
