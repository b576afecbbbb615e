"""Tags of words; samples show sentences with theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import LlmspecError
from llmspec.data.inputs import VALIDATION
from llmspec.data.layout import Batch
from llmspec.decoding.tagging import Row, Tagger, listed
from llmspec.training.context import RunContext
from llmspec.training.tag_scores import tag_scores
from llmspec.training.tasks.base import Sample, Validation
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer

SHOWN = 3
"""Sentences that samples show, where the spec has no prompts."""


class Sentence(NamedTuple):
    """A sentence of a batch."""

    row: int
    places: np.ndarray
    """(words,) where in the row the first token of each of its words stands."""
    begin: int
    """Where it begins in the row, special tokens included."""
    end: int


def sentences_in(batch: Batch) -> Iterator[Sentence]:
    """The sentences of a batch that have a word, row by row."""
    for row in range(len(batch.tokens)):
        filled = int(batch.filled[row])
        numbers = batch.documents[row, :filled]
        for number in range(int(numbers[-1]) + 1 if filled else 0):
            own = np.flatnonzero(numbers == number)
            places = own[batch.weights[row, own] > 0]
            if len(places):
                yield Sentence(row, places, int(own[0]), int(own[-1]) + 1)


class Tag(Supervised):
    """Rows of whole sentences, of whose words the tags are asked."""

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        head: Any = phase.model.heads[phase.phase.objective.head]
        self._labels: tuple[str, ...] = tuple(head.labels or map(str, range(head.classes)))
        self._tagger: Tagger | None = None

    def validate(self, trainer: Trainer) -> Validation:
        """Every validation sentence of the mixture's sources once: the loss, and what is told of all their words."""
        found, tables, tokens = [], dict[str, Any](), 0
        for source, held_out in self.context.prepared.validation(self.plan.name).items():
            sums = dict.fromkeys((*trainer.steps.sums, "loss_weights"), 0.0)
            true, said = list[np.ndarray](), list[np.ndarray]()
            for i, batch in enumerate(held_out):
                arrays = self._arrays(batch, VALIDATION, source, i)
                of_batch = {**trainer.evaluate(arrays), "loss_weights": float(arrays["loss_weights"].sum())}
                sums = {name: total + of_batch[name] for name, total in sums.items()}
                guess = of_batch["logits"].argmax(-1).reshape(batch.tokens.shape)
                for sentence in sentences_in(batch):
                    true.append(batch.targets[sentence.row, sentence.places])
                    said.append(guess[sentence.row, sentence.places])
            if not true:
                continue
            metrics, tables[source] = tag_scores(true, said, self._labels)
            metrics = (*self.phase.objective.metrics(sums, held_out.characters), *metrics)
            found += [metric.of(source) for metric in metrics]
            tokens += held_out.read
        return Validation(tuple(found), tokens, tables)

    # -- samples -------------------------------------------------------------------------------------------------
    @property
    def samples_drawn(self) -> int:
        return len(self.phase.prompts) or len(self._first[0])

    @cached_property
    def _first(self) -> tuple[list[tuple[list[str], Row, list[str]]], str]:
        """(words, ids and tags of the first sentences that are validated with, or else trained on; where they were
        taken from)."""
        held_out = [(s, v) for s, v in self.context.prepared.validation(self.plan.name).items() if len(v)]
        if held_out:
            batch, origin = held_out[0][1].batch(0), f"validation text of {held_out[0][0]}"
        else:
            batch = self.stream.batch(0)
            origin = f"training text of {self.stream.sources[int(batch.source[0])]}"
        return [self._known(batch, one) for one in islice(sentences_in(batch), SHOWN)], origin

    def _known(self, batch: Batch, one: Sentence) -> tuple[list[str], Row, list[str]]:
        codec, behind = self.context.prepared.codec, len(self.context.prepared.codec.specials.after)
        ids = batch.tokens[one.row, one.begin : one.end].tolist()
        firsts = (one.places - one.begin).tolist()
        words = [codec.decode(ids[i:j]).strip() for i, j in zip(firsts, [*firsts[1:], len(ids) - behind], strict=True)]
        return words, Row(ids, firsts), [self._labels[i] for i in batch.targets[one.row, one.places].tolist()]

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        """Sentences with the tags that the model gives their words."""
        try:
            yield from list(self._shown(trainer))
        except Exception as e:
            self._tagger = None  # nobody knows where it stopped
            why = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
            yield Sample("", "", "error", "", why)

    def _shown(self, trainer: Trainer) -> Iterator[Sample]:
        tagger, prompts = self._reader(trainer), self.phase.prompts
        if prompts:
            for text, found in zip(prompts, tagger.tag([text.split() for text in prompts]), strict=True):
                yield Sample(text, f"→ {listed(found)}", "tagged")
            return
        known, origin = self._first
        words: Sequence[list[str]] = [one[0] for one in known]
        for (sentence, _, true), found in zip(known, tagger.of_rows(words, [one[1] for one in known]), strict=True):
            yield Sample(" ".join(sentence), f"→ {listed(found, true)}", "tagged", origin)

    def _reader(self, trainer: Trainer) -> Tagger:
        """What tags words by the weights as they are now."""
        if self._tagger is None:
            head, codec = self.phase.objective.head, self.context.prepared.codec
            self._tagger = Tagger(self.plan.model, head, self.context.backend, trainer.weights, codec, trainer.layouts)
        return self._tagger
