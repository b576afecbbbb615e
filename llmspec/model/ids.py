"""Token ids that somebody else gives, checked before they reach memory."""

from __future__ import annotations

import operator
from typing import Any


def token_ids(given: Any, vocab: int, longest: int, axes: tuple[int, ...] = (1, 2)) -> Any:
    """The ids as an int32 array with one of these numbers of axes, the last of 1 … `longest`.

    Raises TypeError where something is no integer, ValueError where a shape is wrong or an id not in 0 … vocab - 1.
    """
    import numpy as np

    try:
        ids = np.asarray(given)
    except ValueError:
        raise ValueError("token ids come in rows of equal length; these rows differ, or hold rows themselves") from None
    _are_whole(given, ids)
    if ids.ndim not in axes:
        raise ValueError(f"token ids have the shape {_shapes(axes)}, not {ids.shape}")
    if not 1 <= ids.shape[-1] <= longest or not ids.size:
        many = ids.shape[-1] if ids.ndim else 0
        raise ValueError(f"1 to {longest} tokens, the model's context, can be read at once, not {many}"
                         if ids.size or many != 0 else "there are no tokens, and a model needs one to begin with")
    wrong = (ids < 0) | (ids >= vocab)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = f"row {place[0]}, place {place[1]}" if len(place) == 2 else f"place {place[-1]}"
        raise ValueError(f"{ids[place]} at {at} is no token id: this model's are 0 … {vocab - 1}")
    return ids.astype(np.int32)


def _are_whole(given: Any, ids: Any) -> None:
    """Raises TypeError for what is no integer, and for True and False, which would count as 1 and 0."""
    if not ids.size and not isinstance(given, str | bytes):
        return
    if ids.dtype.kind in "iu" and not _holds_bool(given):
        return
    if ids.dtype == object and ids.ndim and all(isinstance(i, int) and not isinstance(i, bool) for i in ids.flat):
        return  # integers beyond 64 bits, which are in no vocabulary
    first = given
    while isinstance(first, list | tuple) and first:
        first = next((x for x in first if isinstance(x, bool) or not isinstance(x, int)), first[0])
    kind = type(first).__name__ if ids.dtype.kind in "OUSb" else f"{ids.dtype}"
    raise TypeError(f"token ids are integers, not {kind}; text becomes ids with `tokens` or a tokenizer")


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
