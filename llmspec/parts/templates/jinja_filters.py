"""Jinja's own filters and tests with the limits of the sandbox around them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmspec.parts.templates import limits
from llmspec.parts.templates.limits import meter

TEXTUAL = frozenset(
    ("capitalize", "e", "escape", "lower", "safe", "string", "title", "trim", "truncate", "upper", "wordcount")
)
"""Filters that make a text of their value, whatever it is."""
CASES = frozenset(("lower", "upper"))
"""Tests that do."""


def _join(context: Any, given: dict[str, Any]) -> None:
    values, attribute = given["value"], given["attribute"]
    if attribute is not None:
        from jinja2.filters import make_attrgetter

        # What is picked may be larger than what it is picked from shows of itself.
        values, given["attribute"] = map(make_attrgetter(context.environment, attribute), values), None
    given["value"] = limits.joined(given["d"], values)


LOOKS_AT: Mapping[str, Callable[[Any, dict[str, Any]], None]] = {
    "indent": lambda _, given: limits.indented(given["s"], given["width"]),
    "join": _join,
    "replace": lambda _, given: limits.replaced(given["s"], given["old"], given["new"]),
    "round": lambda _, given: limits.rounded(given["value"], given["precision"]),
    "sum": lambda _, given: limits.summed(given["start"]),
    "trim": lambda _, given: limits.looked(str(given["value"]), given["chars"]),
}
"""What is looked at before a filter runs, given the context and its arguments by name, which it may change."""
ALONE = frozenset(("indent", "join"))
"""Those of which this holds even where a template gives nothing but the value."""


def bounded(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is no larger than it may be."""
    passed = int(hasattr(run, "jinja_pass_arg"))  # whether the first argument is the context
    signature = _signature(run) if name in LOOKS_AT else None

    @functools.wraps(run)
    def found(*args: Any, **kwargs: Any) -> Any:
        meter().step()
        if name in TEXTUAL and not isinstance(args[passed], str):
            limits.weigh(args[passed])
        if signature is not None and (name in ALONE or kwargs or len(args) > passed + 1):
            given = signature.bind(*args[passed:], **kwargs)
            given.apply_defaults()
            LOOKS_AT[name](args[0], given.arguments)
            args, kwargs = (*args[:passed], *given.args), given.kwargs
        made = run(*args, **kwargs)
        return limits.counted(made) if isinstance(made, Iterator) else limits.checked(made)

    return found


def _signature(run: Callable[..., Any]) -> inspect.Signature:
    """The arguments that a template gives."""
    found = inspect.signature(run)
    # Filters of two kinds, of which one waits, pass on the context only where the plain one takes it.
    taken = int(hasattr(inspect.unwrap(run), "jinja_pass_arg"))
    return found.replace(parameters=[*found.parameters.values()][taken:])


def timed(name: str, run: Any) -> Callable[..., Any]:
    """A test, before which the clock is read."""
    passed = int(hasattr(run, "jinja_pass_arg"))

    @functools.wraps(run)
    def found(*args: Any, **kwargs: Any) -> Any:
        meter().tick()
        if name in CASES:
            limits.weigh(args[passed])
        return run(*args, **kwargs)

    return found
