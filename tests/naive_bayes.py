"""Naive Bayes over words and pairs of words (Manning, Raghavan & Schütze 2008, section 13.2): what a model that reads
sentences is to beat."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from llmspec.data.tokens import TokenSet
from llmspec.parts.tokenizers.base import Codec


class NaiveBayes:
    """The multinomial model, each count one larger than it is."""

    def __init__(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        self._numbers: dict[tuple[str, ...], int] = {}
        rows = [[self._numbers.setdefault(term, len(self._numbers)) for term in terms(text)] for text in texts]
        counts = np.ones((max(labels) + 1, len(self._numbers)))
        for row, label in zip(rows, labels, strict=True):
            np.add.at(counts[label], row, 1)
        self._logs = np.log(counts / counts.sum(1, keepdims=True))
        self._prior = np.log(np.bincount(labels, minlength=len(counts)) / len(labels))

    def guess(self, text: str) -> int:
        """The likeliest label of a text; terms that no training text has say nothing."""
        known = [self._numbers[term] for term in terms(text) if term in self._numbers]
        return int((self._prior + self._logs[:, known].sum(1)).argmax())


def terms(text: str) -> Iterator[tuple[str, ...]]:
    """Words in lower case, and pairs of neighbours."""
    words = re.findall(r"[\w']+", text.lower())
    yield from ((word,) for word in words)
    yield from pairwise(words)


def split(data: TokenSet, codec: Codec, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """(texts, numbers of their labels in `names`) of the documents that have one of them."""
    assert data.labels is not None
    texts, labels = list[str](), list[int]()
    for i, (begin, end) in enumerate(pairwise(data.offsets.tolist())):
        found = data.label_sets[int(data.labels[i])]
        if len(found) == 1 and found[0] in names:
            texts.append(codec.decode(data.tokens[begin:end].tolist()))
            labels.append(names.index(found[0]))
    return texts, labels


def accuracies(train: tuple[list[str], list[int]], held_out: tuple[list[str], list[int]]) -> dict[str, float]:
    """Of naive Bayes, and of the commonest label of training, on what is held out."""
    model, true = NaiveBayes(*train), np.array(held_out[1])
    said = np.array([model.guess(text) for text in held_out[0]])
    commonest = int(np.bincount(train[1]).argmax())
    return {"naive Bayes": float((said == true).mean()), "majority": float((true == commonest).mean())}
