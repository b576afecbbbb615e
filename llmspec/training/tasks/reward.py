"""What answers are worth; samples show answers to one prompt with their rewards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby

import numpy as np

from llmspec.core.metrics import Metric
from llmspec.training.preference_scores import preference_scores
from llmspec.training.tasks.base import Sample
from llmspec.training.tasks.documents import Documents, Text, texts_in
from llmspec.training.trainer import Trainer

SHOWN = 3
"""Prompts that samples show."""


class Reward(Documents):
    """Rows of prompts with their answers, of which a better one is to have the higher reward."""

    gathered = "outputs"

    def scores(self, outputs: np.ndarray, texts: list[Text]) -> tuple[Metric, ...]:
        ranks, lengths = [int(text.target) for text in texts], [text.supervised for text in texts]
        return preference_scores(outputs, [text.record for text in texts], ranks, lengths)

    @property
    def samples_drawn(self) -> int:
        return len(self._first[0])

    @cached_property
    def _first(self) -> tuple[list[list[Text]], str]:
        """(texts by record, where they were taken from)."""
        batches, origin = self.first_batches(1)
        found = [list(group) for _, group in groupby(texts_in(batches[0]), key=lambda text: text.record)]
        return found[:SHOWN], origin

    def shown(self, trainer: Trainer) -> Iterator[Sample]:
        """The answers to each prompt with their rewards, the better ones first."""
        reader, codec = self.reader(trainer), self.context.prepared.codec
        groups, origin = self._first
        rewards = iter(reader.read_rows([text.tokens for group in groups for text in group])[:, 0].tolist())
        for group in groups:
            said = [f"{codec.decode(text.tokens[text.begins :]).strip()} ({next(rewards):+.3g})" for text in group]
            prompt = codec.decode(group[0].tokens[: group[0].begins]).strip()
            yield Sample(prompt, " > ".join(said), "compared", origin)
