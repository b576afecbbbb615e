"""Tags of words: read from records beside their words, written beside tokens, and placed in rows of whole sentences.

N tokens, n documents, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmspec.core.tag_schemes import OUTSIDE, parsed
from llmspec.data.documents import Asked, DocumentLayout, Placed, Whole
from llmspec.data.layout import Batch
from llmspec.data.packing import ranges_from
from llmspec.data.shaping import EMPTY, MISFIT, UNLISTED, UNNAMED, UNTAGGED, Dropped
from llmspec.data.tokens import TokenSet
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.word_lists import words_in

MOST = (1 << 16) - 1
"""Tags of a source, at most: token files number them in 16 bits."""


class TagColumn:
    """The words of documents with their tags as numbers, and what the numbers mean."""

    def __init__(self, source: Source) -> None:
        (self._words,), (self._tags,), self._names = source.told("words"), source.told("tags"), source.tag_names
        self._numbers, self._counts = dict[str, int](), list[int]()
        self._stray = 0

    def add(self, document: Document) -> tuple[list[str], list[int]] | Dropped:
        """The words of the next document and the number of each one's tag; why it is left out, where it is."""
        record = document.record
        if record is None:
            return Dropped(UNTAGGED, "plain text, without fields")
        words, given = words_in(record.get(self._words)), record.get(self._tags)
        tags = words_in(given)
        if not words:
            return Dropped(EMPTY, f"`{self._words}` holds no list of words")
        if not tags:
            return Dropped(UNTAGGED, f"`{self._tags}` holds no list of tags")
        if len(words) != len(tags):
            return Dropped(MISFIT, f"{len(words)} words and {len(tags)} tags")
        if self._names and isinstance(given, list | tuple):
            named = [self._named(tag) for tag in given]
            if None in named:
                return Dropped(UNNAMED, f"{given[named.index(None)]}, and `tag_names:` has {len(self._names)}")
            tags = [tag for tag in named if tag is not None]
        if len(self._numbers.keys() | {*tags}) > MOST:
            return Dropped(UNNAMED, f"a source has {MOST:,} different tags at most")
        numbers = [self._numbers.setdefault(tag, len(self._numbers)) for tag in tags]
        self._counts += [0] * (len(self._numbers) - len(self._counts))
        for number in numbers:
            self._counts[number] += 1
        self._stray += strays(tags)
        return words, numbers

    def _named(self, tag: Any) -> str | None:
        """The name of a tag that is a number; a name of its own as it is."""
        if isinstance(tag, str):
            return tag.strip()
        return self._names[tag] if 0 <= tag < len(self._names) else None

    def close(self) -> dict[str, Any]:
        """What is noted of them: the tags in the order of their numbers, how many words each has, and how many go on
        with an entity that did not begin."""
        labels = [[[name], count] for name, count in zip(self._numbers, self._counts, strict=True)]
        return {"labels": labels, "stray": self._stray}


def strays(tags: Sequence[str]) -> int:
    """How many tags go on with an entity (`I-PER`) where none of that type stands before."""
    found, before = 0, (OUTSIDE, "")
    for tag in map(parsed, tags):
        found += tag[0] in "IE" and not (before[0] in "BI" and before[1] == tag[1])
        before = tag
    return found


def stray_notices(abouts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a person should know of tags that do not fit those before them."""
    for about in abouts:
        if count := sum(about[side].get("stray", 0) for side in ("train", "validation")):
            yield (
                f"{count:,} tag{'s' * (count > 1)} of {about['source']} go on with an entity that did not begin, such "
                "as `I-PER` behind `O`; each counts as the beginning of one"
            )


@dataclass(frozen=True)
class TagAsking(Whole):
    """How a phase reads sentences of whose words it asks the tags."""

    around: tuple[tuple[int, ...], tuple[int, ...]]
    longest: int
    truncation: bool
    documents: int
    labels: tuple[str, ...]
    weights: np.ndarray
    """(C,) float32: how much a word of each tag counts."""

    def classes(self, data: TokenSet) -> np.ndarray:
        """(N,) int32: of a word's first token 1 + its tag's number in `labels`, -1 where that is not listed; 0 of any
        other token."""
        assert data.tags is not None, "these tokens have tags"
        known = {label: 1 + i for i, label in enumerate(self.labels)}
        return np.array([0, *(known.get(labels[0], -1) for labels in data.label_sets)], np.int32)[data.tags]

    def of(self, data: TokenSet) -> Asked:
        """Documents with a tag that is not listed are left out, and so are those without a token of any word."""
        n, classes = len(data.lengths), self.classes(data)
        unlisted, tagged = (in_documents(data, which) > 0 for which in (classes < 0, classes > 0))
        dropped = {UNLISTED: int(unlisted.sum()), EMPTY: int((~unlisted & ~tagged).sum())}
        return Asked(~unlisted & tagged, np.zeros(n, np.int32), np.ones(n, np.float32), dropped)

    def blank(self, rows: int) -> None:
        """Nothing is asked of documents."""

    def named(self, target: Any) -> str:
        """A tag's name."""
        return self.labels[int(target)]

    def identity(self) -> Any:
        """All of its fields that batches hang on."""
        around = list(map(list, self.around))
        return ["tags", around, self.longest, self.truncation, self.labels, self.weights.tolist()]


def in_documents(data: TokenSet, which: np.ndarray) -> np.ndarray:
    """(n,) int64: how many of the tokens (N,) bool that are meant each document has."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(which)])
    found: np.ndarray = before[data.offsets[1:]] - before[data.offsets[:-1]]
    return found


class TagLayout(DocumentLayout):
    """Sentences packed as documents are; the tag of a word is the target of its first token, which alone counts."""

    def __init__(self, data: TokenSet, asking: TagAsking, context: int, names: tuple[object, ...] | None) -> None:
        self._classes, self._weights = asking.classes(data), asking.weights
        super().__init__(data, asking, context, names)

    def _words(self, text: np.ndarray) -> np.ndarray:
        """(N,) how many tokens of documents are read, those around them excluded."""
        around = sum(map(len, self._asking.around))
        found: np.ndarray = np.maximum(0, self._texts.lengths[text, 0] - around)
        return found

    def _teaches(self) -> np.ndarray:
        """(n,) words of each document whose first tokens are read."""
        begins = self._texts.begins[:, 0]
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._classes > 0)])
        found: np.ndarray = before[begins + self._words(np.arange(len(begins)))] - before[begins]
        return found

    def _ask(self, batch: Batch, placed: Placed) -> None:
        words, text = self._words(placed.text), placed.text
        inside = ranges_from(np.zeros_like(words), words)
        classes = self._classes[np.repeat(self._texts.begins[text, 0], words) + inside]
        places = np.repeat(placed.begins + len(self._asking.around[0]), words) + inside
        first = classes > 0
        counts = self._weights[classes[first] - 1]
        if self.weighs is not None:
            counts = counts * self.weighs[np.repeat(text, words)[first]]
        batch.targets.reshape(-1)[places[first]] = classes[first] - 1
        batch.weights.reshape(-1)[places[first]] = counts
