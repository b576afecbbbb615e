"""Tags of words that together mark entities: IOB2 (Ramshaw & Marcus 1995; Tjong Kim Sang 2002), and IOBES."""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
"""The tag of words that are part of nothing."""
MARKS = "BIES"
"""How tags of entities begin: beginning, inside, end, and an entity of a single word."""


def parsed(tag: str) -> tuple[str, str]:
    """(mark, type) of a tag: `B-PER` is ("B", "PER"). A tag without a mark, such as `NOUN`, is an entity by itself."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if tag[:1] in MARKS and (len(tag) == 1 or tag[1] == "-"):
        return tag[0], tag[2:]
    return "S", tag


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, last word) of every entity of a sentence, in order, by the rules of conlleval (Tjong Kim Sang
    & Buchholz 2000), which seqeval has, too: `I` goes on with `B` or `I` of its type, and begins an entity behind
    anything else."""
    found = list[tuple[str, int, int]]()
    before = (OUTSIDE, "")
    for i, (mark, kind) in enumerate(map(parsed, tags)):
        if mark in "IE" and before[0] in "BI" and before[1] == kind:
            found[-1] = (kind, found[-1][1], i)
        elif mark != OUTSIDE:
            found.append((kind, i, i))
        before = mark, kind
    return found
