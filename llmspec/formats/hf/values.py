"""Small things of both directions: paths into nested settings, and numbers that become others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmspec.formats.hf.family import Via

MISSING: Any = object()


def put(settings: dict[str, Any], path: str, value: Any) -> None:
    """Sets what stands at a dotted path."""
    *above, last = path.split(".")
    for step in above:
        settings = settings.setdefault(step, {})
    settings[last] = value


def get(settings: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path; MISSING where nothing does."""
    found: Any = settings
    for step in path.split("."):
        if not isinstance(found, Mapping) or step not in found:
            return MISSING
        found = found[step]
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two values of JSON are equal: a truth is no number, and 1 is 1.0."""
    a, b = (tuple(x) if isinstance(x, list) else x for x in (a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def spelled(value: Any) -> str:
    """A field's value as the tables write it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def forward(value: Any, via: Via) -> Any:
    """A number of config.json as one of a spec. Raises ValueError where it is none."""
    if via == "same":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{value!r} is no positive number")
    if via == "less_two":
        return value - 2
    return float(value) ** -0.5 if via == "inverse_sqrt" else int(value) // 2 + 1


def backward(value: Any, via: Via) -> Any:
    """The reverse."""
    if via == "same" or value is None:
        return value
    if via == "less_two":
        return value + 2
    if via == "half_plus_one":
        return 2 * (value - 1)
    whole = round(value**-2)
    return whole if float(whole) ** -0.5 == value else value**-2
