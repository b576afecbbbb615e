"""Texts that training and validation share, exactly or but for case, spacing and punctuation, and doubled sources.

By hashes: one pass over the documents, whatever their number.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.core.problems import Problem
from llmspec.data.shaping import Turn

if TYPE_CHECKING:
    from llmspec.data.split import Shaped

EXAMPLES = 3
"""Leaks of a source that are named; all are counted."""


def normalised(text: str) -> str:
    """What is left of a text when looks are taken away: NFKC, case folded, no punctuation, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    # Folding can take a text out of its normal form (U+0345), and case-insensitive matching asks for it again.
    folded = text.casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFKC", folded)
    return " ".join(folded.translate(_punctuation()).split())


@cache
def _punctuation() -> dict[int, None]:
    """Every character of the Unicode categories P (punctuation); symbols such as + and = say something and stay."""
    return {code: None for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "P"}


def alike(text: str) -> bytes:
    """16 bytes that are the same for texts that are the same normalised; punctuation alone stands for itself."""
    return _digest(normalised(text) or text)


def turns_alike(turns: Sequence[Turn]) -> bytes:
    """The same for dialogues; roles count too."""
    contents = (("".join(turn.content), turn.role) for turn in turns)
    return _digest("\0".join(f"{role}\0{normalised(text) or text}" for text, role in contents))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def content(items: Iterable[Shaped]) -> dict[str, str]:
    """By form that occurs: a hash of the set of texts, or of dialogues, the same for sources that hold the same."""
    items = list(items)
    keys = {"plain": {alike(item.text) for item in items},
            "dialogue": {turns_alike(item.turns) for item in items if item.turns}}
    return {form: hashlib.sha256(b"".join(sorted(found))).hexdigest() for form, found in keys.items() if found}


class Leak(NamedTuple):
    """A training document whose text some source validates with, by their places."""

    trained: str
    validated: str


class HeldOut:
    """The validation text of all sources: texts and dialogues by key, each with its place."""

    def __init__(self, sides: Mapping[str, Sequence[Shaped]]) -> None:
        """`sides`: source -> its validation documents."""
        self._texts: dict[bytes, str] = {}
        self._spoken: dict[bytes, str] = {}
        for source, side in sides.items():
            for item in side:
                place = f"{source} ({item.document.where})"
                self._texts.setdefault(alike(item.text), place)
                if item.turns:
                    self._spoken.setdefault(turns_alike(item.turns), place)

    def split(self, items: Sequence[Shaped]) -> tuple[dict[str, list[Shaped]], dict[str, list[Leak]]]:
        """By form: the items that are nowhere held out, and the others as leaks.

        As dialogues, items may not be held out in either form: what is read aloud is read.
        """
        clean: dict[str, list[Shaped]] = {"plain": [], "dialogue": []}
        leaks: dict[str, list[Leak]] = {"plain": [], "dialogue": []}
        for item in items:
            text = self._texts.get(alike(item.text)) if self._texts else None
            spoken = self._spoken.get(turns_alike(item.turns)) if self._spoken and item.turns else None
            for form, place in (("plain", text), ("dialogue", text or spoken)):
                if place is None or form in item.dropped:
                    clean[form].append(item)
                else:
                    leaks[form].append(Leak(item.document.where, place))
        return clean, leaks


# -- what is said of them ------------------------------------------------------------------------------------------
def refusal(source: str, count: int, examples: Sequence[Sequence[str]]) -> Problem:
    """The problem of a source that leaks where `data.leaks: refuse` stands."""
    named = "; ".join(f"{trained} is {validated}" for trained, validated in examples)
    return Problem(
        f"{_documents(count, source)} {'are' if count > 1 else 'is'} validated with too: "
        f"{named}{' ...' if count > len(examples) else ''}", ("data", "sources", source),
        "take them out, or write `data: {leaks: drop}` and they are left out of training",
        "the validation loss would praise what was learned by heart")


def doubled(phase: str, contents: Mapping[Any, str]) -> list[Problem]:
    """Sources of one phase that hold the same text, from {(source, form): hash of its content, or ''}."""
    first: dict[tuple[str, str], str] = {}
    problems = []
    for (source, form), found in contents.items():
        if not found:
            continue
        twin = first.setdefault((form, found), source)
        if twin != source:
            problems.append(Problem(
                f"{source} holds the same text as {twin}", ("phases", phase, "mixture", source),
                f"take {source} out of the mixture and give {twin} its share",
                "each text would be read twice as often as its share, its epochs and max_epochs say"))
    return problems


def notice(source: str, count: int, policy: str) -> str:
    """What a person should know of a source whose training documents are validated with too."""
    what = _documents(count, source)
    if policy == "allow":
        return (f"{what} {'are' if count > 1 else 'is'} validated with too, and data.leaks allows it: the validation "
                "loss will look better than it is")
    return f"{what} {'were' if count > 1 else 'was'} dropped, since validation holds the same text"


def _documents(count: int, source: str) -> str:
    return f"{count:,} training document{'s' * (count > 1)} of {source}"
