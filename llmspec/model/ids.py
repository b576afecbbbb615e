"""Token ids that somebody else gives, checked before they reach memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

FEW = 1024
LONG = 1 << 20
"""Tokens of a row that no model reads at once: such a row is refused by its length, not looked through."""


def token_ids(given: Any, vocab: int, longest: int, axes: tuple[int, ...] = (1, 2)) -> Any:
    """The ids as an int32 array with one of these numbers of axes, the last of 1 … `longest`.

    Raises TypeError where something is no integer, ValueError where a shape is wrong or an id not in 0 … vocab - 1.
    """
    import numpy as np

    few = type(given) is list and 0 < len(given) <= min(FEW, longest) and 1 in axes
    if few and all(type(i) is int and 0 <= i < vocab for i in given):  # a step's tokens, thousands of times a second
        return np.array(given, np.int32)
    try:
        ids = np.asarray(given)
    except ValueError:
        raise ValueError("token ids come in rows of equal length; these rows differ, or hold rows themselves") from None
    _are_whole(given, ids)
    if ids.ndim not in axes:
        raise ValueError(f"token ids have the shape {_shapes(axes)}, not {ids.shape}")
    if not ids.size:
        raise ValueError("there are no tokens, and a model needs one to begin with")
    if ids.shape[-1] > longest:
        raise ValueError(f"1 to {longest} tokens can be read at once, not {ids.shape[-1]}")
    wrong = (ids < 0) | (ids >= vocab)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = f"row {place[0]}, place {place[1]}" if len(place) == 2 else f"place {place[-1]}"
        raise ValueError(f"{ids[place]} at {at} is not a token id: this model's are 0 … {vocab - 1}")
    return ids.astype(np.int32)


def _are_whole(given: Any, ids: Any) -> None:
    """Raises TypeError for what is no integer, and for True and False, which would count as 1 and 0."""
    if not ids.size and not isinstance(given, str | bytes):
        return
    if ids.dtype.kind in "iu" and (ids.shape[-1:] > (LONG,) or not _holds_bool(given)):
        return
    if ids.dtype == object and ids.ndim and all(isinstance(i, int) and not isinstance(i, bool) for i in ids.flat):
        return  # integers beyond 64 bits, which are in no vocabulary
    kinds = _other_types(given) if isinstance(given, list | tuple) else iter([type(given).__name__] * (not ids.ndim))
    kind = next(kinds, ids.dtype.name)
    raise TypeError(f"token ids are integers, not {kind}; text becomes ids with `tokens` or a tokenizer")


def _other_types(given: Any) -> Iterator[str]:
    """Names of the types of what is no integer, in lists of lists."""
    for x in given:
        if isinstance(x, list | tuple):
            yield from _other_types(x)
        elif isinstance(x, bool) or not hasattr(x, "__index__"):
            yield type(x).__name__


def _holds_bool(given: Any) -> bool:
    return isinstance(given, list | tuple) and any(isinstance(x, bool) or _holds_bool(x) for x in given)


def whole(name: str, given: Any, least: int, most: int | None = None) -> int:
    """An integer within limits. Raises TypeError for anything else, ValueError beyond the limits."""
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise TypeError(f"{name} is an integer, not {given!r}")
    number = operator.index(given)
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name} is {least} or more{f', at most {most:,}' if most is not None else ''}, not {number}")
    return number


def _shapes(axes: tuple[int, ...]) -> str:
    return " or ".join({1: "(tokens,)", 2: "(rows, tokens)"}[n] for n in axes)
