"""How prompts are read: padded to few lengths, those of one length together, long ones in pieces.

So few graphs are made, each for a number of prompts and of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

SHORTEST = 16
"""Smallest prefill bucket, in tokens; buckets double from here up to the context."""
TOGETHER = (16, 4, 1)
"""How many prompts are read at once: few numbers, since each has a graph of its own."""
TOKENS_TOGETHER = 512
"""Tokens, padding included, from which on reading more prompts at once gains nothing."""
PIECE = 512
"""Tokens of a long prompt that are read at once, where less padding is read that way than at once."""


def bucket(tokens: int, places: int) -> int:
    """To how many tokens a prompt is padded."""
    return min(places, max(SHORTEST, 1 << (tokens - 1).bit_length()))


def together(prompts: int) -> int:
    """How many rows the graph has that reads so many prompts."""
    return next(n for n in reversed(TOGETHER) if n >= prompts)


def kept(read: list[int], prompt: Any, places: int) -> int:
    """How many of a row's tokens are kept for a prompt that begins with them: none if that leaves no shorter bucket."""
    import numpy as np

    n = min(len(read), len(prompt) - 1)
    differ = np.flatnonzero(np.asarray(read[:n], np.int32) != prompt[:n])
    n = int(differ[0]) if len(differ) else n
    return n if saves(n, len(prompt), places) else 0


def saves(kept: int, tokens: int, places: int) -> bool:
    """Whether what is left of a prompt after `kept` tokens pads to fewer."""
    return kept < tokens and bucket(tokens - kept, places) < bucket(tokens, places)


def pieces(start: int, tokens: int, places: int) -> list[int]:
    """Where the pieces end in which a prompt of so many tokens is read from `start` on: one piece, or several of PIECE
    tokens and a rest, where less padding is read that way."""
    ends = [*range(start + PIECE, tokens, PIECE), tokens]
    padded = sum(bucket(end - begin, places) for begin, end in pairwise([start, *ends]))
    return ends if padded < bucket(tokens - start, places) else [tokens]


def batches(ids: Sequence[Any], starts: Sequence[int], places: int) -> Iterable[list[int]]:
    """Indices of prompts that are read at once: those with one bucket, from their beginnings or from a kept prefix."""
    groups: dict[tuple[bool, int], list[int]] = {}
    for i, (prompt, start) in enumerate(zip(ids, starts, strict=True)):
        groups.setdefault((start > 0, bucket(len(prompt) - start, places)), []).append(i)
    for (_, length), group in groups.items():
        while group:
            size = next(n for n in TOGETHER if n == 1 or (n * length <= TOKENS_TOGETHER and 4 * len(group) >= 3 * n))
            yield group[:size]
            group = group[size:]
