"""The words of texts to tags, with probabilities, by the head of a model that was trained to tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import LlmspecError
from llmspec.core.tag_schemes import OUTSIDE, entities
from llmspec.decoding.classifying import LabelChance, labelled_head, probabilities
from llmspec.decoding.reading import Progress, Reader, Reading, batches
from llmspec.parts.sources.word_lists import stretches

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TaggedWord:
    """A word, and what a model says of it."""

    word: str
    labels: tuple[LabelChance, ...]
    """Every tag, the most probable first; none of a word that was not read, or has no token."""

    @property
    def tag(self) -> str:
        """The most probable one; '' where there is none."""
        return self.labels[0].label if self.labels else ""

    @property
    def probability(self) -> float:
        """How probable that is."""
        return self.labels[0].probability if self.labels else 0.0


class Entity(NamedTuple):
    """Words that their tags put together."""

    kind: str
    text: str
    first: int
    """Its first word's number in the sentence."""
    last: int


@dataclass(frozen=True)
class Tagged:
    """What a model says of the words of a text."""

    words: tuple[TaggedWord, ...]
    cut: bool = False
    """Whether the beginning alone of the text was read."""

    @property
    def entities(self) -> tuple[Entity, ...]:
        """The entities that the tags mark, in order."""
        words = [one.word for one in self.words]
        found = entities([one.tag or OUTSIDE for one in self.words])
        return tuple(Entity(kind, " ".join(words[i : j + 1]), i, j) for kind, i, j in found)


class Row(NamedTuple):
    """A sentence as a model reads it."""

    ids: list[int]
    """Special tokens around it included."""
    firsts: list[int]
    """The place of each word's first token among them; -1 of a word without, or that is not read."""
    cut: bool = False
    """Whether it has more tokens than these."""


class Tagger(Reader):
    """A model and the head that tells tags."""

    def look_at(self, head: Any) -> None:
        self.labels: tuple[str, ...] = tuple(head.labels or map(str, range(head.classes)))

    def tag(
        self, sentences: Sequence[Sequence[str]], progress: Progress = lambda done, total: None, longest: int = 0
    ) -> list[Tagged]:
        """The tags of the words of each sentence, of which as many tokens are read as the context holds, or `longest`.
        Raises DataError for lone surrogates, LlmspecError for a sentence without words."""
        rows = [self._row(words, i, longest) for i, words in enumerate(sentences)]
        return self.of_rows(sentences, rows, progress)

    def of_rows(
        self,
        sentences: Sequence[Sequence[str]],
        rows: Sequence[Row],
        progress: Progress = lambda done, total: None,
    ) -> list[Tagged]:
        """The same of sentences that are ids already."""
        found, done = dict[int, Any](), 0
        for chosen in batches([len(row.ids) for row in rows], self.longest):
            found |= zip(chosen, self._batch([rows[i].ids for i in chosen]), strict=True)
            done += len(chosen)
            progress(done, len(rows))
        return [
            Tagged(tuple(self._said(words, row, found[i])), row.cut)
            for i, (words, row) in enumerate(zip(sentences, rows, strict=True))
        ]

    def _row(self, words: Sequence[str], number: int, longest: int) -> Row:
        special = self._codec.specials
        room = (longest or self.longest) - len(special.before) - len(special.after)
        if room < 1:
            raise LlmspecError(f"{self.longest} tokens leave no room for a text between its special tokens")
        if not words:
            raise LlmspecError(f"text {number + 1} is empty", "leave it out", "it has no word, and so no tag")
        ids, firsts = list[int](), list[int]()
        for pieces in self._codec.encode(stretches(words)):
            firsts.append(len(special.before) + len(ids) if pieces and len(ids) < room else -1)
            ids += pieces
        return Row([*special.before, *ids[:room], *special.after], firsts, len(ids) > room)

    def _said(self, words: Sequence[str], row: Row, logits: np.ndarray) -> Iterator[TaggedWord]:
        chances = probabilities(logits, multi=False)
        for word, first in zip(words, row.firsts, strict=True):
            order = (-chances[first]).argsort(kind="stable").tolist() if first >= 0 else ()
            yield TaggedWord(word, tuple(LabelChance(self.labels[j], float(chances[first, j])) for j in order))


def tagging_head(model: ModelPlan) -> str | None:
    """The name of the last head that tells tags of words by their names; None where there is none."""
    return labelled_head(model, "tokens")


TAGGING = Reading(
    Tagger,
    tagging_head,
    "this model tells no tags of words",
    hint="a phase of kind tag trains a model that does; a head of kind tokens needs `labels:`",
    consequence="there would be nothing to choose among",
)
"""How words get tags."""


def listed(found: Tagged, true: Sequence[str] = ()) -> str:
    """A sentence with the tags behind its words that have one: `EU [B-ORG] rejects German [B-MISC] lamb`; where the
    true ones are known, a wrong one with the right one beside it."""
    out = list[str]()
    for i, word in enumerate(found.words):
        wrong = bool(true) and word.tag != true[i]
        said = f"{word.tag}, is {true[i]}" if wrong else word.tag
        out.append(f"{word.word} [{said}]" if wrong or word.tag not in ("", OUTSIDE) else word.word)
    return " ".join(out)
