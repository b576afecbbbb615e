"""What a template of others may make, and how long it may take: looked at before it is made."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView
from datetime import datetime
from types import MethodType
from typing import Any

SIZE = 1 << 22
"""Characters and items that a template may write, and that one of its values may have, at most."""
ALL = 1 << 28
"""Characters and items of all values that a template makes, at most."""
STEPS = 300_000
"""Rounds of loops, calls and operations, at most."""
SECONDS = 5.0
"""Time of one rendering, at most."""
BITS = 4096
"""Bits of an integer, at most."""
DIGITS = 300
"""Digits before or behind the point to which a number may be rounded, at most: as many as a float can have."""
LOOKS = 1 << 28
"""Comparisons of characters that one method may take, at most."""
OTHER = 64
"""Characters that the text of an object has which holds no others, such as a function."""
METHODS: Mapping[type, str] = {
    str: "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric "
    "isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition "
    "rsplit rstrip split splitlines startswith strip swapcase title upper",
    dict: "get items keys values",
    list: "count index",
    tuple: "count index",
}
"""Methods of values that a template may call."""
BACKWARDS = frozenset(("lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"))
"""Methods of texts whose time is the product of both lengths."""


class TooMuch(Exception):
    """A template that goes beyond a limit."""


class Meter:
    """What one rendering has spent."""

    def __init__(self, now: datetime | None) -> None:
        self.steps = self.made = self.held = 0
        self.until = time.monotonic() + SECONDS
        self.now, self.asked_now = now, False

    def step(self, made: int = 0) -> str:
        """A round, a call or an operation that writes so many characters. Raises TooMuch."""
        self.steps += 1
        self.made += made
        if self.steps > STEPS:
            raise TooMuch(f"it takes more than {STEPS:,} steps")
        if self.made > SIZE:
            raise TooMuch(f"it makes more than {SIZE:,} characters")
        self.tick()
        return ""

    def tick(self) -> None:
        """Something that takes time and makes nothing. Raises TooMuch."""
        if time.monotonic() > self.until:
            raise TooMuch(f"it takes longer than {SECONDS:g} seconds")

    def hold(self, size: int) -> None:
        """A value of so many characters and items. Raises TooMuch."""
        self.held += size
        if self.held > ALL:
            raise TooMuch(f"it makes values of more than {ALL:,} characters")


local = threading.local()
"""Its `meter` is that of the rendering that is going on in this thread."""


def meter() -> Meter:
    """That of the rendering that is going on."""
    found: Meter = local.meter
    return found


# -- sizes -----------------------------------------------------------------------------------------------------------
def weigh(value: Any) -> int:
    """Characters and items that a value unfolds to, as its text would. Raises TooMuch beyond SIZE."""
    waiting, found = [value], 0
    while waiting:
        one = waiting.pop()
        found += 1
        if isinstance(one, str):
            found += len(one)
        elif isinstance(one, int):
            bits = one.bit_length()
            if bits > BITS:
                raise TooMuch("it makes an integer beyond reason")
            found += bits // 16
        elif one is not None and not isinstance(one, float):
            inside = _inside_of(one)
            if inside is None:
                found += OTHER
            else:
                waiting += inside(one)
                meter().tick()
        if found + len(waiting) > SIZE:
            raise TooMuch(f"it makes a value of more than {SIZE:,} characters")
    return found


def _inside_of(one: Any) -> Callable[[Any], Iterable[Any]] | None:
    kind: Any = type(one)
    return _inside(kind)


@functools.cache
def _inside(kind: Any) -> Callable[[Any], Iterable[Any]] | None:
    """What the text of an object of a kind shows of others; None where it shows none."""
    from jinja2.runtime import Macro
    from jinja2.utils import Namespace

    if issubclass(kind, Mapping):
        return lambda one: [*one.keys(), *one.values()]
    if issubclass(kind, list | tuple | set | frozenset | MappingView):
        return lambda one: one
    if issubclass(kind, Namespace):
        return lambda one: (one._Namespace__attrs,)  # its other attributes are the template's
    if issubclass(kind, MethodType):
        return lambda one: (one.__self__,)
    return (lambda one: (one.name,)) if issubclass(kind, Macro) else None


def checked(value: Any) -> Any:
    """The value itself, which is no larger than it may be."""
    meter().step()
    if not isinstance(value, bool | float | None):
        meter().hold(weigh(value))
    return value


def counted(values: Iterator[Any]) -> Iterator[Any]:
    """The values themselves, which are together no larger than one may be."""
    found = 0
    for value in values:
        found += weigh(value)
        meter().step()
        _within(found)
        yield value


def within(size: int) -> None:
    """A value of so many characters and items is about to be made. Raises TooMuch."""
    meter().step()
    _within(size)
    meter().hold(size)


def _within(size: int) -> None:
    if size > SIZE:
        raise TooMuch(f"it makes a value of more than {SIZE:,} characters")


# -- what grows ------------------------------------------------------------------------------------------------------
def operation(operator: str, left: Any, right: Any) -> None:
    """Looks at the operands before what could be large is made. Raises TooMuch."""
    meter().step()
    whole = [isinstance(x, int) for x in (left, right)]
    if operator == "%" and isinstance(left, str):
        raise TooMuch("`%` of a text is not offered here")
    if operator == "**":
        if not all(isinstance(x, int | float) for x in (left, right)):
            return
        if all(whole) and abs(right) * max(1, left.bit_length()) > BITS:
            raise TooMuch("it makes an integer beyond reason")
    elif operator == "*":
        if all(whole):
            if left.bit_length() + right.bit_length() > BITS:
                raise TooMuch("it makes an integer beyond reason")
        elif any(whole):
            times, sized = (left, right) if whole[0] else (right, left)
            if not isinstance(sized, float):
                within(weigh(sized) * max(0, times))
    elif operator == "+":
        within(weigh(left) + weigh(right))


def concatenated(values: tuple[Any, ...]) -> str:
    """`a ~ b`."""
    within(weigh(values))
    return "".join(str(value) for value in values)


def joined(between: Any, values: Iterable[Any]) -> list[Any]:
    """The values, which are small enough to become a text with `between` in between. Raises TooMuch."""
    found = list(values)
    within(weigh(found) + (len(between) if isinstance(between, str) else weigh(between)) * len(found))
    return found


def replaced(text: Any, old: Any, new: Any) -> None:
    """Before one part of a text becomes another. Raises TooMuch."""
    within(weigh(text) + weigh(old) + weigh(new))  # they may be no texts yet
    text, old, new = str(text), str(old), str(new)
    within(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def looked(text: Any, sought: Any) -> None:
    """Before a text is gone through for characters of another. Raises TooMuch."""
    if isinstance(sought, str) and len(text) * len(sought) > LOOKS:
        raise TooMuch(f"it compares more than {LOOKS:,} characters at once")


def indented(text: Any, width: Any) -> None:
    """Before the lines of a text are moved by a number of spaces, or by a text. Raises TooMuch."""
    within(weigh(text))
    text = str(text)
    within(len(text) + (len(text.splitlines()) + 1) * _long(width))


def nested(value: Any, width: Any, separators: Any) -> None:
    """Before a value becomes JSON whose lines are moved by `width` for each level. Raises TooMuch."""
    size = weigh(value)
    within(size)
    apart, wide = (0 if x is None else of(x) for x, of in ((separators, weigh), (width, _long)))
    level, deep = [value] if apart or wide else [], 0
    while level:
        size += len(level) * (apart + deep * wide)
        _within(size)
        held = [(one, _inside_of(one)) for one in level if not isinstance(one, str | int | float | None)]
        level = [part for one, inside in held if inside is not None for part in inside(one)]
        deep += 1
    within(size)


def _long(width: Any) -> int:
    return len(width) if isinstance(width, str) else int(width)


def rounded(value: Any, precision: Any) -> None:
    """Before a number is rounded to so many digits behind the point. Raises TooMuch."""
    if not isinstance(value, int | float):
        raise TooMuch("`round` of what is no number is not offered here")
    if not isinstance(precision, int) or abs(precision) > DIGITS:
        raise TooMuch(f"`round` takes a whole number of digits, from -{DIGITS} to {DIGITS}")


def summed(start: Any) -> None:
    """Before values are added to a first one. Raises TooMuch."""
    if not isinstance(start, int | float):
        raise TooMuch("`sum` begins with a number here")  # each sum of lists would copy all that came before


def method(owner: Any, name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a method of a value may be called with, as it may be called. Raises TooMuch."""
    allowed = next((names for kind, names in METHODS.items() if isinstance(owner, kind)), None)
    if allowed is None:
        if isinstance(owner, int | float | bytes | type):
            what = "a type" if isinstance(owner, type) else "a number"
            raise TooMuch(f"`.{name}()` of {what} is not offered here")
        return given
    if name not in allowed.split():
        raise TooMuch(f"`.{name}()` is not offered here")
    if name in BACKWARDS and isinstance(owner, str):
        for other in (*given, *named.values()):
            looked(owner, other)
    elif name == "replace" and len(given) >= 2:
        replaced(owner, given[0], given[1])
    elif name == "join" and given and isinstance(given[0], Iterable):
        return (joined(owner, given[0]), *given[1:])
    return given
