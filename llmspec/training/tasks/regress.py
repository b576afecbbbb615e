"""Numbers of texts; samples say what number a text has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from llmspec.core.metrics import Metric
from llmspec.training.number_scores import number_scores
from llmspec.training.tasks.base import Sample
from llmspec.training.tasks.documents import Documents, Text, texts_in
from llmspec.training.trainer import Trainer

SHOWN = 3
"""Texts that samples show, where the spec has no prompts."""


class Regress(Documents):
    """Rows of whole documents, of each of which a number is asked."""

    gathered = "outputs"

    def _own_unit(self, numbers: np.ndarray) -> np.ndarray:
        head: Any = self.plan.model.heads[self.phase.objective.head]
        found: np.ndarray = numbers.astype(np.float64) * (head.std or 1.0) + head.mean
        return found

    def scores(self, outputs: np.ndarray, texts: list[Text]) -> tuple[Metric, ...]:
        true = np.array([float(text.target) for text in texts])
        return number_scores(self._own_unit(outputs), self._own_unit(true))

    @property
    def samples_drawn(self) -> int:
        return len(self.phase.prompts) or len(self._first[0])

    @cached_property
    def _first(self) -> tuple[list[Text], str]:
        batches, origin = self.first_batches(1)
        return list(islice(texts_in(batches[0]), SHOWN)), origin

    def shown(self, trainer: Trainer) -> Iterator[Sample]:
        """The number of each text."""
        reader, codec = self.reader(trainer), self.context.prepared.codec
        if self.phase.prompts:
            asked = [(text, "", "") for text in self.phase.prompts]
            found = reader.read(list(self.phase.prompts)).vectors
        else:
            texts, origin = self._first
            assert self.stream.asking is not None
            asked = [(codec.decode(t.tokens), self.stream.asking.named(t.target), origin) for t in texts]
            found = reader.read_rows([text.tokens for text in texts])
        for (text, true, where), number in zip(asked, self._own_unit(found[:, 0]), strict=True):
            yield Sample(text, f"→ {number:.4g}" + (f" (it is {true})" if true else ""), "predicted", where)
