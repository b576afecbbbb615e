"""Texts that training and validation share, exactly or apart from typography, and doubled sources.

By hashes: one pass over the documents, whatever their number.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.core.problems import Problem
from llmspec.parts.templates.base import Turn

if TYPE_CHECKING:
    import numpy as np

EXAMPLES = 3
"""Leaks of a source that are named; all are counted."""


def normalised(text: str) -> str:
    """A text without what is only typography: case, shapes of quotes, dashes and letters, spacing, a final full stop.

    Signs, numbers, operators, accents and all other punctuation carry meaning and stay: `-5` is not `5`, `a+b` is not
    `a-b`. Unicode's composed and decomposed forms are one (NFC).
    """
    return _FULL_STOP.sub("", _untypeset(text))


def _untypeset(text: str) -> str:
    """All of that but for the full stop: word by word, so that what is made of "a b" is that of "a" and of "b"."""
    if not text.isascii():
        # Folding can take a text out of its normal form (U+0345), and case-insensitive matching asks for it again.
        text = unicodedata.normalize("NFC", text).translate(_shapes())
        text = unicodedata.normalize("NFC", text.casefold())
    return " ".join(text.casefold().split())


_FULL_STOP = re.compile(r"(?<=[\w)\]}\"'])[.。]\Z")
"""The full stop that ends a text, after a letter, digit, bracket or quote."""
_QUOTES = {'"': "“”„‟«»〝〞〟❝❞", "'": "‘’‚‛‹›❛❜"}
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_UNSEEN = "\u00ad\u200b\u2060\ufeff"
"""Soft hyphen, zero width space, word joiner, mark of byte order; joiners within scripts and emoji count."""
_SAME_LETTER = (
    "<compat>",
    "<wide>",
    "<narrow>",
    "<noBreak>",
    "<initial>",
    "<medial>",
    "<final>",
    "<isolated>",
    "<vertical>",
    "<small>",
)
"""Kinds of Unicode compatibility that are a matter of shape: superscripts, fractions and circled digits are not."""
_LAST_SHAPE = 0x1FFFF
"""No character above is another one's shape."""


@cache
def _shapes() -> dict[int, str]:
    """Code point -> what it is but for its shape, as in normal text."""
    marks = {ord(c): plain for plain, found in _QUOTES.items() for c in found}
    marks |= {**{ord(c): "-" for c in _DASHES}, **{ord(c): "" for c in _UNSEEN}}
    table = {}
    for code in range(0x80, _LAST_SHAPE + 1):
        kind = unicodedata.decomposition(chr(code)).partition(" ")[0]
        if kind in _SAME_LETTER:
            plain = unicodedata.normalize("NFKC", chr(code))
            # A spacing accent is not a space with an accent over it.
            if not plain.startswith(" ") or plain == " ":
                table[code] = plain.translate(marks)
    return {**table, **marks}


def alike(text: str) -> bytes:
    """16 bytes that are the same for texts that are the same normalised."""
    return _digest(normalised(text) or text)


def turns_alike(turns: Sequence[Turn]) -> bytes:
    """The same for dialogues; roles count too."""
    contents = (("".join(turn.content), turn.role) for turn in turns)
    return _digest("\0".join(f"{role}\0{normalised(text) or text}" for text, role in contents))


def _digest(text: str) -> bytes:
    return hashlib.sha256(_encoded(text)).digest()[:16]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Alike:
    """`alike` of a text that comes in stretches, in bounded memory."""

    MOST = 1 << 20
    """Characters that are kept while no white space comes; then the text is cut between any two."""

    def __init__(self) -> None:
        self._normal, self._raw = hashlib.sha256(), hashlib.sha256()
        self._rest = self._last = ""
        self._glued = self._some = False

    def add(self, text: str) -> None:
        """The text goes on."""
        self._raw.update(_encoded(text))
        text = self._rest + text
        # What white space sets apart is normalised apart: see `_untypeset`.
        cut = max(text.rfind("\n"), text.rfind(" ")) + 1
        forced = not cut and len(text) > self.MOST
        if cut or forced:
            self._word(text[: cut or len(text)])
            self._glued = forced
            text = text[cut or len(text) :]
        self._rest = text

    def _word(self, text: str) -> None:
        """Words that go on with no others, but after a forced cut."""
        apart = not self._glued or text[:1].isspace()
        found = _untypeset(text)
        if not found:
            self._glued = self._glued and not apart
            return
        if self._last and apart:
            self._last += " "
        self._normal.update(_encoded(self._last))
        self._some, self._last = True, found

    def digest(self) -> bytes:
        """The 16 bytes; nothing may follow."""
        self._word(self._rest)
        if not self._some:
            return self._raw.digest()[:16]
        self._normal.update(_encoded(_FULL_STOP.sub("", self._last)))
        return self._normal.digest()[:16]


class Content(NamedTuple):
    """The set of texts of a source."""

    key: str
    """Hash that sources share which hold the same."""
    documents: int
    duplicates: int
    """Documents that are another one but for typography."""


def content(keys: np.ndarray) -> Content:
    """The set of documents with these keys (n,) S16."""
    import numpy as np

    distinct = np.unique(keys)
    return Content(hashlib.sha256(distinct.tobytes()).hexdigest(), len(keys), len(keys) - len(distinct))


class Contaminated(NamedTuple):
    """A training document whose text some source validates with, by their places."""

    trained: str
    validated: str


class HeldOut:
    """Keys (n,) S16 of validation documents, to look others up in."""

    def __init__(self, keys: np.ndarray) -> None:
        import numpy as np

        self._sorted, self._first = np.unique(keys, return_index=True)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(m,) int64: for each key, the first held one that is the same; -1 where there is none."""
        import numpy as np

        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        near = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[near] == keys, self._first[near], -1)


# -- what is said of them ------------------------------------------------------------------------------------------
def refusal(source: str, count: int, examples: Sequence[Sequence[str]]) -> Problem:
    """The problem of a contaminated source where `data.contamination: refuse` stands."""
    named = "; ".join(f"{trained} is {validated}" for trained, validated in examples)
    return Problem(
        f"{_documents(count, source)} {'are' if count > 1 else 'is'} also in validation: "
        f"{named}{' ...' if count > len(examples) else ''}",
        ("data", "sources", source),
        "take them out, or write `data: {contamination: drop}` and they are left out of training",
        "the validation loss would measure what the model has memorised",
    )


def doubled(phase: str, contents: Mapping[Any, str]) -> list[Problem]:
    """Sources of one phase that hold the same text, from {(source, form): hash of its content, or ''}."""
    first: dict[tuple[str, str], str] = {}
    problems = []
    for (source, form), found in contents.items():
        if not found:
            continue
        twin = first.setdefault((form, found), source)
        if twin != source:
            problems.append(
                Problem(
                    f"{source} holds the same text as {twin}",
                    ("phases", phase, "mixture", source),
                    f"take {source} out of the mixture and give {twin} its share",
                    "each text would be read twice as often as its share, its epochs and max_epochs say",
                )
            )
    return problems


def notice(source: str, count: int, examples: Sequence[Sequence[str]]) -> str:
    """What a person should know of a source whose training documents are also in validation, where that is allowed."""
    named = "; ".join(f"{trained} is {validated}" for trained, validated in examples)
    return (
        f"{_documents(count, source)} {'are' if count > 1 else 'is'} also in validation, and data.contamination "
        f"allows it: the validation loss will look better than it is "
        f"({named}{'; ...' if count > len(examples) else ''})"
    )


def _documents(count: int, source: str) -> str:
    return f"{count:,} training document{'s' * (count > 1)} of {source}"
