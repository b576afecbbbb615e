"""Texts that belong together; samples say which targets are nearest to a text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from llmspec.core.metrics import Metric
from llmspec.training.retrieval import nearest_targets, retrieval_scores
from llmspec.training.tasks.base import Sample
from llmspec.training.tasks.documents import Documents, Text, texts_in
from llmspec.training.trainer import Trainer

SHOWN = 3
"""Sources that samples show, where the spec has no prompts."""
NEAREST = 3
"""Targets that are named of each text."""
CANDIDATES = 512
"""Targets among which samples look, at most."""


class Contrastive(Documents):
    """Rows of pairs of texts, each read by itself, all of which are compared with each other."""

    gathered = "vectors"

    def scores(self, outputs: np.ndarray, texts: list[Text]) -> tuple[Metric, ...]:
        return retrieval_scores(outputs, [np.array(text.tokens, np.int32).tobytes() for text in texts])

    @property
    def samples_drawn(self) -> int:
        return len(self.phase.prompts) or min(SHOWN, len(self._pairs[0]) // 2)

    @cached_property
    def _pairs(self) -> tuple[list[Text], str]:
        """(sources and targets in turn, where they were taken from)."""
        batches, origin = self.first_batches(CANDIDATES)
        found = [text for batch in batches for text in texts_in(batch)]
        return found[: 2 * CANDIDATES], origin

    def shown(self, trainer: Trainer) -> Iterator[Sample]:
        """The nearest targets of each text, of those that are validated with, or else of a batch."""
        reader, codec = self.reader(trainer), self.context.prepared.codec
        pairs, origin = self._pairs
        named = {codec.decode(text.tokens): text.tokens for text in pairs[1::2]}
        targets, vectors = list(named), reader.read_rows(list(named.values()))
        if self.phase.prompts:
            asked = [(text, "", "") for text in self.phase.prompts]
            of_asked = reader.read(list(self.phase.prompts)).vectors
        else:
            many = len(pairs) // 2  # such lists are often sorted: some from everywhere
            some = [2 * (i * many // self.samples_drawn) for i in range(self.samples_drawn)]
            decoded = [[codec.decode(pairs[i + j].tokens) for j in range(2)] for i in some]
            asked = [(source, target, origin) for source, target in decoded]
            of_asked = reader.read_rows([pairs[i].tokens for i in some])
        for (text, target, where), vector in zip(asked, of_asked, strict=True):
            near = nearest_targets(vector, vectors, NEAREST)
            said = ", ".join(f"{targets[i]} ({cosine:.2f})" for i, cosine in near)
            yield Sample(text, f"→ {said}", "compared", where, target=target)
