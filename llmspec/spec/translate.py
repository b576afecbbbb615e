"""pydantic's verdict on a value, in the words of somebody who writes YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from llmspec.core.problems import Mark, Path, Problem, nearest, one_of
from llmspec.core.units import SCALES, Share
from llmspec.spec.messages import explained, given, shown
from llmspec.spec.shape import default_of, description, expected, fields_of, is_union
from llmspec.spec.yaml12 import scalar

COMPARED = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
}
NAMES = ("literal_error",)
"""Errors of a value that is to be one of some names."""
SHORT = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
"""Types of numbers as other tools call them."""
DEVICES = {
    "gpu": "`CUDA` (NVIDIA), `METAL` (Apple) or `AMD`, or `auto` for what is there",
    "mps": "`METAL`",
    "nvidia": "`CUDA`",
    "rocm": "`AMD`",
    "apple": "`METAL`",
    "none": "`CPU`",
}
"""Devices as other tools call them."""
YES, NO = ("yes", "on", "y", "1"), ("no", "off", "n", "0")
_DECORATED = re.compile(
    r"(?P<number>[-+]?\d[\d_, ]*(?:\.\d+)?(?:e[-+]?\d+)?)\s*(?P<scale>[kmbgt](?![a-z]))?(?P<unit>\s*[a-z]*|\s*%)",
    re.IGNORECASE,
)
_NAMED = re.compile(r"`(\w+)")
"""Keys as messages name them: `key`, `key:` or `key: value`."""
_COMMA = re.compile(r"(?P<whole>[-+]?\d+),(?P<fraction>\d+)(?P<rest>e[-+]?\d+|)", re.IGNORECASE)
"""A number as much of Europe writes it, or with one comma between its thousands."""

LONGEST = 40
"""Characters of a quantity that is worth repeating in a hint."""

Error = Mapping[str, Any]
"""One of pydantic's error dicts: type, loc, input, ctx."""


@dataclass(frozen=True)
class Translator:
    """Turns pydantic's errors about one part's own values into problems."""

    part: type[BaseModel]
    path: Path
    data: Mapping[str, Any]
    key_mark: Callable[[Path], Mark | None]

    def problems(self, errors: Iterable[Error]) -> list[Problem]:
        by_key: dict[Path, list[tuple[Path, Error]]] = {}
        for error in errors:
            if error["type"] == "too_short" and len(error.get("input") or ()) >= error["ctx"]["min_length"]:
                continue  # counted without its broken entries, which are told themselves
            where = self.located(error["loc"])
            by_key.setdefault(where[:1], []).append((where, error))
        out = []
        for head, found in by_key.items():
            info = fields_of(self.part).get(str(head[0])) if head else None
            if info is not None and is_union(info.annotation) and len(found) > 1:
                found = _fitting(found, head)
            out += [self.problem(error, where) for where, error in found]
        return list(dict.fromkeys(out))

    def located(self, loc: tuple[Any, ...]) -> Path:
        """The path of an error, without the names of union members and validators that pydantic puts between."""
        data: Any = self.data
        out: list[str | int] = []
        for step in loc:
            inside = step in data if isinstance(data, Mapping) else isinstance(data, tuple) and step in range(len(data))
            if inside:
                data = data[step]
                out.append(step)
        return tuple(out)

    def problem(self, error: Error, where: Path) -> Problem:
        key = str(where[0]) if where else ""
        info = fields_of(self.part).get(key)
        message, hint, consequence = self.words(error, key, info.annotation if info else None)
        where = where or self.named(message)
        if not hint and error["type"] not in ("value_error", "assertion_error"):
            hint = explained(key, description(self.part, key))
        found = Problem(message, (*self.path, *where), hint, consequence)
        return replace(found, mark=self.key_mark(found.path)) if error["loc"][-1:] == ("[key]",) else found

    def named(self, message: str) -> Path:
        """Of what is wrong with keys beside each other: the first written one that the message names in backticks."""
        keys = fields_of(self.part)
        return next(((word,) for word in _NAMED.findall(message) if word in self.data and word in keys), ())

    def words(self, error: Error, key: str, annotation: Any) -> tuple[str, str, str]:
        """(message, hint, consequence); where the hint is empty, the key's description will do."""
        kind, value, context = error["type"], error.get("input"), error.get("ctx") or {}
        if kind in TYPES or kind == "union":
            what = TYPES.get(kind) or expected(annotation)
            return f"expected {what}, not {given(value)}", self.retyped(what, value, key), ""
        if kind in COMPARED:
            bound, words = context[COMPARED[kind][0]], COMPARED[kind][1]
            return f"has to be {words} {_number(bound)}, not {shown(value)}", "", ""
        if kind == "literal_error":
            return _choice(value, re.findall(r"'([^']*)'", str(context.get("expected", ""))))
        if kind in ("value_error", "assertion_error"):
            return (
                str(context.get("error", "")) or f"{given(value)} does not fit here",
                _with_unit(value, annotation),
                "",
            )
        if "message" in context:
            return str(context["message"]), str(context.get("hint", "")), str(context.get("consequence", ""))
        if kind in ("too_short", "string_too_short"):
            return (
                (
                    f"needs at least {context.get('min_length', 1)} {_entries(value, context.get('min_length', 1))}, "
                    f"and has {len(value or ()) or 'none'}"
                ),
                "",
                "",
            )
        if kind in ("too_long", "string_too_long"):
            return f"may have at most {context['max_length']} {_entries(value, context['max_length'])}", "", ""
        if kind == "finite_number":
            return f"expected a finite number, not {_number(float(value or 0))}", "", ""
        if kind == "string_pattern_mismatch":
            return _misspelt(str(context.get("pattern")), str(value))
        return f"{given(value)} does not fit here", "", ""

    def retyped(self, what: str, value: Any, key: str) -> str:
        """How the value would have to be written to be of the expected type."""
        if value is None:
            info = fields_of(self.part).get(key)
            default = default_of(info) if info is not None else None
            return f"leave the key out for its default, {shown(default)}" if default is not None else ""
        if what == "true or false":
            word = str(value).lower()
            return (
                "write `true`"
                if word in YES
                else "write `false`"
                if word in NO
                else "`true` or `false`, without quotes"
            )
        if what == "text" and not isinstance(value, Mapping | tuple):
            return "put it in quotes, so that it stays text"
        if what == "a map" and key == "mixture" and isinstance(value, str) and value:
            return f"write `mixture: {{{shown(value)}: 100%}}`"
        if what == "a list" and isinstance(value, str):
            return f"brackets make a list: `[{shown(value)}]`"
        if what in ("a number", "a whole number") and isinstance(value, str | float) and not isinstance(value, bool):
            return _as_number(what, str(value).strip())
        return ""


def _fitting(found: list[tuple[Path, Error]], head: Path) -> list[tuple[Path, Error]]:
    """Of the errors of every member of a union, those of the member that was meant: the value's type fits it."""
    meant = [
        (where, error)
        for where, error in found
        if where != head or error["type"] not in {*TYPES, *([] if isinstance(error["input"], str) else NAMES)}
    ]
    return meant or [(head, {**found[0][1], "type": "union"})]


def _number(value: float) -> str:
    """10000.0 -> 10000; .inf and .nan as YAML has them."""
    if value != value or value in (float("inf"), float("-inf")):
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    return str(int(value)) if value == int(value) else shown(value)


def _entries(value: Any, count: int) -> str:
    one = "character" if isinstance(value, str) else "entry"
    return one if count == 1 else "characters" if one == "character" else "entries"


def _choice(value: Any, choices: list[str]) -> tuple[str, str, str]:
    if not isinstance(value, str):
        return f"expected a name, not {given(value)}", f"one of: {', '.join(choices)}", ""
    near = SHORT.get(value.lower()) if SHORT.get(value.lower()) in choices else nearest(value, choices)
    what = "a role" if {"user", "assistant"} <= set(choices) else "one of the names that may stand here"
    return f"`{shown(value)}` is not {what}", f"did you mean `{near}`?" if near else f"one of: {', '.join(choices)}", ""


def _misspelt(pattern: str, value: str) -> tuple[str, str, str]:
    if choices := re.match(r"\^\(([\w|]+)\)", pattern):
        if "CUDA" in choices[1].split("|") and (meant := DEVICES.get(value.lower())):
            return f"`{shown(value)}` is not the name of a device", f"write {meant}", ""
        return f"`{shown(value)}` is not one of the names that may stand here", one_of(value, choices[1].split("|")), ""
    if "._-" in pattern:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-._")
        return (
            f"`{shown(value)}` cannot be a name: a letter (a to z) or digit, then letters, digits, `.`, `_` and `-`",
            f"such as `{name or 'my-model'}`",
            "",
        )
    return f"`{shown(value)}` is not written as it has to be", "", ""


def _as_number(what: str, text: str) -> str:
    """The number that a text stands for, as YAML wants it."""
    read = scalar(text)
    if isinstance(read, int | float) and not isinstance(read, bool) and what == "a number":
        return f"write `{text}` without quotes"
    if len(text) <= LONGEST and (comma := _COMMA.fullmatch(text)):
        whole, fraction, rest = comma["whole"], comma["fraction"], comma["rest"]
        point, joined = f"{whole}.{fraction}{rest}", f"{whole}{fraction}{rest}"
        if what == "a whole number" and len(fraction) != 3:
            return "a whole number has no fraction"
        if what == "a number":
            either = whole.lstrip("+-") != "0" and len(fraction) == 3
            return f"numbers have a decimal point: write `{point}`" + (f", or `{joined}`" if either else "")
    match = _DECORATED.fullmatch(text)
    if not match:
        return ""
    number = float(re.sub(r"[_, ]", "", match["number"])) * SCALES[(match["scale"] or "").lower()]
    number /= 100 if "%" in match["unit"] else 1
    if not isfinite(number):
        return "no number is that large"
    if what == "a whole number" and number != int(number):
        return "a whole number has no fraction"
    plain = str(int(number)) if number == int(number) and abs(number) < 1e16 else f"{number:g}"
    return f"write `{plain}`, " + ("without quotes" if plain == text else "as a plain number")


def _names(annotation: Any) -> set[str]:
    return {getattr(a, "__name__", "") for a in (annotation, *get_args(annotation))} if annotation else set()


def _quantity(value: str, annotation: Any) -> str:
    """What a quantity in words that cannot be read may have been meant to be."""
    text, names = value.strip(), _names(annotation)
    if len(text) > LONGEST:
        return ""
    if comma := re.match(r"(.*?\d),(\d+)(?![\d,])(.*)", text):
        before, after, rest = comma.groups()
        thousands = len(after) == 3 and before.lstrip("+-") != "0"
        return f"numbers have a decimal point and no commas: write `{before}{'' if thousands else '.'}{after}{rest}`"
    if "Span" in names and re.fullmatch(r"never|none|off|no|false|0 *(steps?|%)?", text, re.IGNORECASE):
        return "`100%` does it once, at the end"
    if "Budget" not in names:
        return ""
    if re.fullmatch(r"\d[\d_.]*\s*[kmbgt]?", text, re.IGNORECASE):
        return f"write `{text} tokens` or `{text} steps`"
    if re.search(r"\d\s*(s|secs?|seconds?|m|min|mins|minutes?|h|hours?|d|days?)$", text, re.IGNORECASE):
        return "a budget is not a time; `llmspec check SPEC --time` says how long one takes on this machine"
    return ""


def _with_unit(value: Any, annotation: Any) -> str:
    """For a number where text with a unit should be: the likely units; for text with a comma: its decimal point."""
    if isinstance(value, str):
        return _quantity(value, annotation)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    names = _names(annotation)
    if "Share" in names or (get_origin(annotation) is dict and Share in get_args(annotation)):
        return (
            f"write `{value * 100:g}%`"
            if 0 < value < 1
            else "write `100%` where all is meant, or `1%`"
            if value == 1
            else f"write `{value:g}%`"
        )
    if "Budget" in names:
        return f"write `{value:g} tokens` or `{value:g} steps`" if value < 1e13 else f"write `{value:g} FLOPs`"
    if "Bytes" in names:
        return f"write `{value:g} GiB`"
    return f"write `{value:g} steps`, or a share such as `{value:g}%`" if "Span" in names else ""
