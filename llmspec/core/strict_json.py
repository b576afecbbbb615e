"""JSON as it is meant between machines: no NaN, no key twice, no number or nesting beyond reason, UTF-8 alone."""

from __future__ import annotations

import json
import math
import re
from typing import Any

DIGITS = 40
"""Digits of an integer, at most: no count, seed or size has more, and floats hold them."""

LONG = re.compile(rf"[0-9]{{{DIGITS + 1}}}")


def loads(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, whose text says in plain words what is wrong with it."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as e:
            raise ValueError(f"it is not UTF-8 (byte {e.start})") from None
    whole = _integer if LONG.search(text) else None  # a call for each of a vocabulary's ids takes long
    try:
        value = json.loads(
            text, parse_int=whole, parse_float=_number, parse_constant=_constant, object_pairs_hook=_pairs
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"it is not JSON: {e.msg} in line {e.lineno}, column {e.colno}") from None
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair, which is not a character") from None
    return value


def _integer(digits: str) -> int:
    if (count := len(digits.lstrip("-"))) > DIGITS:
        raise ValueError(f"it holds a number of {count} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it holds a number beyond what can be computed with ({digits[:40]})")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not a number")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"it holds the key {key[:80]!r} twice")
            seen.add(key)
    return found
