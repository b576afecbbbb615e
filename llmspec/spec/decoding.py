"""The `decoding:` section: the keys of every filter in the table, and how long and how the text goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from llmspec.core.problems import one_of
from llmspec.parts.base import Frozen
from llmspec.parts.filters import TABLE, Filter


def _joined(table: Mapping[str, type[Filter]]) -> type[Frozen]:
    """A model with the fields of all filters side by side: defaults and constraints as they stand."""
    fields: dict[str, Any] = {}
    for name, part in table.items():
        for key, field in part.model_fields.items():
            if key in fields:
                raise TypeError(f"filter {name} has the key `{key}`, which another filter has already")
            fields[key] = (field.annotation, field)
    return create_model("FilterSettings", __base__=Frozen, __module__=__name__, **fields)


if TYPE_CHECKING:

    class FilterSettings(Frozen):
        """The keys of all filters."""

        def __getattr__(self, key: str) -> Any: ...

else:
    FilterSettings = _joined(TABLE)


class Decoding(FilterSettings):
    """How text is drawn from the model: filters in a fixed order, one draw, and when to stop."""

    joined: ClassVar[tuple[type[Filter], ...]] = tuple(TABLE.values())
    """Whose fields these are too: their sources describe them."""
    max_tokens: int = Field(200, gt=0, le=1 << 31)
    """Most tokens drawn per answer."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field((), strict=False)
    """Text that ends the answer and is not shown; it may cross token borders or spell a special token."""
    kv_cache: Literal["f32", "f16", "q8_0"] = "f32"
    """What keys and values are rounded to while text is drawn: `f32` for nothing, `f16` for half the memory, `q8_0` for
    8 bits and a scale for each 32 of a head, a little more than a quarter."""
    order: tuple[str, ...] | None = Field(None, strict=False)
    """Names of the filters in the order in which they run; if omitted, the order of the table."""
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    """What the draws follow from; if omitted, the spec's seed."""

    @field_validator("order")
    @classmethod
    def _runs_what_is_set(cls, order: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        """Refuses unknown names, names that stand twice, and an order without a filter that has settings.

        The error's context has `hint` and `consequence`, for whoever shows it with its place.
        """
        if order is None:
            return order
        for name in order:
            if name not in TABLE:
                raise _error(f"no filter is named `{name}`", one_of(name, TABLE), "the order could not be followed")
            if order.count(name) > 1:
                raise _error(f"`{name}` appears twice", "name each filter once", "it would run twice")
        for name, part in TABLE.items():
            # A setting that is itself wrong is missing here; its own error says so.
            given = {key: info.data[key] for key in part.model_fields if key in info.data}
            if name not in order and part(**given).active():
                keys = ", ".join(f"{k}={v!r}" for k, v in given.items() if v != part.model_fields[k].default)
                raise _error(
                    f"the order leaves out `{name}`, which is set",
                    f"add {name} to the order, or take its keys out",
                    f"{keys} would change nothing",
                )
        return order

    def chain(self, *, idle: bool = False) -> tuple[Filter, ...]:
        """The filters in the order in which they run: those that change something, or with `idle` also the others."""
        filters = (self.filter(name) for name in (TABLE if self.order is None else self.order))
        return tuple(f for f in filters if idle or f.active())

    def filter(self, name: str) -> Filter:
        """The filter of this name with its settings from here."""
        part = TABLE[name]
        return part(**{key: getattr(self, key) for key in part.model_fields})

    def updated(self, **changes: Any) -> Decoding:
        """The same with some keys changed, checked again; raises pydantic's ValidationError."""
        return Decoding.model_validate({**self.model_dump(), **changes})


def _error(message: str, hint: str, consequence: str) -> PydanticCustomError:
    return PydanticCustomError(
        "filter_order", "{message}", {"message": message, "hint": hint, "consequence": consequence}
    )
