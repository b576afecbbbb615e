"""That a mask's relation is what the mask says of itself, for every block of tokens there can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

from llmspec.compiler.masks import Relation

PLACES = 16
"""Blocks up to this many places are gone through pair by pair."""
DIVIDED = 8
"""Blocks up to this many places are gone through in every division into documents."""
FUTURE, APART = "no token sees the future", "no token sees another document"
PREFIX, WHOLE = "no token sees the future beyond the prefix", "every token sees its whole text"


def claim(relation: Relation) -> str:
    """What holds of a relation, as a sentence."""
    mask = relation.mask
    own = FUTURE if mask.causal else PREFIX if mask.has_prefix else WHOLE
    if relation.documents:
        own = APART if mask.causal else f"{own}, and none another document"
    beyond = "but nothing" if own.startswith(WHOLE) else "nor"
    return own if mask.window is None else f"{own}, {beyond} beyond {mask.window:,} tokens"


@cache
def examined(relation: Relation, allows: Callable[..., Any]) -> tuple[str, str]:
    """(what is wrong with a relation or '', evidence that nothing is). `allows` is its method, or one in its place.

    All small blocks are gone through. That it holds in longer ones follows from a second look: asked with places and
    documents that can do nothing but be compared, the relation can only be a table over the order of the two places,
    whether their distance is below some constants, and whether the documents are the same. Every line of that table
    occurs in a small block, or in a pair at one of those distances.
    """
    # What the mask says of itself and what the relation asks: both are looked at where they change.
    pairs, distances = 0, set[int]() if relation.mask.window is None else {relation.mask.window}
    for documents, filled, prefix in blocks(relation):
        for query, key in product(range(len(documents)), repeat=2):
            pairs += 1
            seen = bool(allows(relation, query, key, documents[query], documents[key], key in prefix))
            same = documents[query] == documents[key]
            if wrong := contradiction(relation, query, key, same, key in prefix, filled, seen):
                shown = "" if not relation.documents else f" of documents {' '.join(map(str, documents))}"
                return f"in a block{shown}, position {query} {wrong} {key}", ""
    try:
        one, other = Place(distances), Place(distances)
        allows(relation, one, other, Document(), Document(), Verdict())
    except TypeError as error:
        return f"the mask does more than compare positions ({error}), so nothing follows for longer blocks", ""
    far = sorted({d + near for d in distances for near in (-1, 0, 1)})
    for distance, in_prefix in product(far, (False, True) if relation.mask.has_prefix else (False,)):
        for query, key in ((max(distance, 0), max(-distance, 0)), (max(-distance, 0), max(distance, 0))):
            pairs += 1
            seen = bool(allows(relation, query, key, 0, 0, in_prefix))
            if wrong := contradiction(relation, query, key, True, in_prefix, max(query, key) + 1, seen):
                return f"position {query} {wrong} {key}", ""
    divided = ", divided into documents in every way" if relation.documents else ""
    borders = f" and at distances about {', '.join(f'{d:,}' for d in sorted(distances))}" if distances else ""
    return "", (
        f"{pairs:,} pairs of query and key in all blocks up to {DIVIDED if relation.documents else PLACES} "
        f"positions{divided}{borders}; longer blocks follow, since the mask only compares positions"
    )


SOURCE = "every token sees the whole text of the encoder, and no padding"


@cache
def source_examined(ranges: Callable[..., Any]) -> tuple[str, str]:
    """(what is wrong with the ranges of cross-attention or '', evidence that nothing is); `ranges` is `cross_ranges`,
    or a function in its place. All small pairs of texts are gone through; what a query sees is one number, the filled
    tokens, whatever its place, so longer ones follow."""
    pairs = 0
    for tokens, filled in product(range(1, PLACES + 1), repeat=2):
        for query, (first, end) in enumerate(ranges([filled], tokens)[0].tolist()):
            for key in range(PLACES + 1):
                pairs += 1
                seen = first <= key < end
                if seen != (key < filled):
                    what = "sees the padding at" if seen else "does not see"
                    return f"position {query} {what} position {key} of the encoder's {filled} tokens", ""
    return "", f"{pairs:,} pairs of query and key in all texts up to {PLACES} tokens"


def blocks(relation: Relation) -> Iterator[tuple[tuple[int, ...], int, frozenset[int]]]:
    """(document of each place, places that are filled, places of prefixes) of small blocks; padding stands last, as a
    document of its own under a document mask."""
    divided = relation.documents
    for length in range(1, (DIVIDED if divided else PLACES) + 1):
        for filled in range(1, length + 1):
            for cuts in product((0, 1), repeat=filled - 1) if divided else [(0,) * (filled - 1)]:
                documents = [0]
                for cut in cuts:
                    documents.append(documents[-1] + cut)
                documents += [documents[-1] + divided] * (length - filled)
                for long in (0, 1, 2) if relation.mask.has_prefix else (0,):
                    starts = [documents.index(d) for d in documents]
                    prefix = frozenset(p for p in range(filled) if p - starts[p] < long)
                    yield tuple(documents), filled, prefix


def contradiction(
    relation: Relation, query: int, key: int, same: bool, in_prefix: bool, filled: int, seen: bool
) -> str:
    """What is wrong with seeing, or with not seeing, a key; '' where it is right."""
    mask = relation.mask
    if relation.documents and not same:
        return "sees another document at position" if seen else ""
    if key > query and (mask.causal or (mask.has_prefix and not in_prefix)):
        return "sees the future position" if seen else ""
    both_ways = not mask.causal and not mask.has_prefix
    if mask.window is not None and (query - key >= mask.window or (both_ways and key - query >= mask.window)):
        return "sees beyond its window at position" if seen else ""
    if query < filled <= key and not mask.causal:
        return ""  # what the relation allows there, ranges leave out
    if seen and query < filled <= key:
        return "sees the padding at position"
    if seen:
        return ""
    if query == key:
        return "does not even see position"
    return "does not see its own past at position" if key < query else "does not see position"


class Place:
    """A place of which nothing is known: it can be compared with another, or its distance from it with a constant."""

    def __init__(self, distances: set[int] | None = None) -> None:
        self.distances = set() if distances is None else distances
        """The constants that distances were compared with."""

    def __sub__(self, other: object) -> Distance:
        self._compared(other)
        return Distance(self.distances)

    def _compared(self, other: object) -> Verdict:
        if type(other) is not type(self):
            raise TypeError(f"a {type(self).__name__.lower()} is compared with a {type(other).__name__}")
        return Verdict()

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _compared  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Document(Place):
    """The same for documents, whose distances say nothing."""

    def __sub__(self, other: object) -> Distance:
        raise TypeError("documents have no distance")


class Distance:
    """How far one place lies after another: it can be compared with a constant, which is noted."""

    def __init__(self, distances: set[int]) -> None:
        self.distances = distances

    def _compared(self, other: object) -> Verdict:
        if not isinstance(other, int):
            raise TypeError(f"a distance is compared with a {type(other).__name__}")
        self.distances.add(other)
        return Verdict()

    __lt__ = __le__ = __gt__ = __ge__ = _compared
    __hash__ = None  # type: ignore[assignment]


class Verdict:
    """The result of a comparison: it joins others, and nobody may look at it."""

    def _joined(self, other: object) -> Verdict:
        if not isinstance(other, Verdict | bool):
            raise TypeError(f"a comparison is joined with {other!r}")
        return self

    __and__ = __or__ = __xor__ = __rand__ = __ror__ = _joined

    def __bool__(self) -> bool:
        raise TypeError("it branches on a comparison")
