"""A Spec as canonical YAML: every default written out, `kind` first, and read back to an equal Spec."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmspec.spec.schema import Spec
from llmspec.spec.yaml12 import scalar

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./%+-]*( [A-Za-z0-9_./%+-]+)*")
_PRINTABLE = re.compile("[\\t\\n\\r\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*")
_LINES = re.compile("[\u2028\u2029]")


def dump(spec: Spec) -> str:
    """The spec as YAML text; load_spec of it gives an equal Spec."""
    return to_yaml(spec.dump())


def to_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML in one fixed layout: maps in lines, lists in brackets."""
    return "".join(_lines(data, 0))


def _lines(data: Mapping[str, Any], indent: int) -> Iterator[str]:
    # `kind` says what the other keys mean, so it stands before them.
    for key in sorted(data, key=lambda k: k != "kind"):
        value, head = data[key], f"{' ' * indent}{_text(key)}:"
        if isinstance(value, Mapping) and value:
            yield head + "\n"
            yield from _lines(value, indent + 2)
        else:
            yield f"{head} {_flow(value)}\n"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _text(text: str) -> str:
    """Text, quoted where it would read as anything else; as JSON does, which YAML takes too."""
    if _PLAIN.fullmatch(text) and isinstance(scalar(text), str):
        return text
    return json.dumps(text, ensure_ascii=not _PRINTABLE.fullmatch(text) or bool(_LINES.search(text)))
