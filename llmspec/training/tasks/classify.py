"""Classification of texts; samples say what labels a text has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import LlmspecError
from llmspec.data.inputs import VALIDATION
from llmspec.decoding.classifying import Classifier, listed
from llmspec.training.context import RunContext
from llmspec.training.scores import label_scores
from llmspec.training.tasks.base import Sample, Validation
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer

SHOWN = 3
"""Texts that samples show, where the spec has no prompts."""


class Opening(NamedTuple):
    """A text that samples classify."""

    text: str
    tokens: list[int]
    """Special tokens around it included; empty where they are made of the text."""
    answer: str = ""
    """Its label, where that is known."""
    origin: str = ""
    """Where it was taken from; '' for what the spec says."""


class Classify(Supervised):
    """Rows of whole documents, of each of which a label is asked."""

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        head: Any = phase.model.heads[phase.phase.objective.head]
        self._labels = tuple(head.labels or map(str, range(head.classes)))
        self._classifier: Classifier | None = None
        self._openings = [Opening(text, []) for text in phase.phase.prompts]
        self._openings = self._openings or list(self._first())

    def _first(self) -> Iterator[Opening]:
        """The first documents that are validated with, or else trained on."""
        held_out = [(s, v) for s, v in self.context.prepared.validation(self.plan.name).items() if len(v)]
        if held_out:
            batch, origin = held_out[0][1].batch(0), f"validation text of {held_out[0][0]}"
        else:
            batch = self.stream.batch(0)
            origin = f"training text of {self.stream.sources[int(batch.source[0])]}"
        asking = self.stream.asking
        assert batch.labels is not None and asking is not None
        codec, shown = self.context.prepared.codec, 0
        for row in range(len(batch.tokens)):
            tokens = batch.tokens[row, : batch.filled[row]]
            for number in range(int(batch.documents[row, len(tokens) - 1]) + 1 if len(tokens) else 0):
                ids = tokens[batch.documents[row, : len(tokens)] == number].tolist()
                text = codec.decode(ids)
                answer = asking.named(batch.labels.targets[row, number])
                yield Opening(text, ids, answer, origin)
                shown += 1
                if shown == SHOWN:
                    return

    def validate(self, trainer: Trainer) -> Validation:
        """Every validation document of the mixture's sources once: the loss, and what is told of all answers."""
        import numpy as np

        found, tables, texts = [], dict[str, Any](), 0
        for source, held_out in self.context.prepared.validation(self.plan.name).items():
            sums, logits, targets = {"loss": 0.0, "loss_weights": 0.0}, [], []
            for i, batch in enumerate(held_out):
                arrays = self._arrays(batch, VALIDATION, source, i)
                of_batch, weights = trainer.evaluate(arrays), arrays["loss_weights"]
                sums = {
                    "loss": sums["loss"] + of_batch["loss"],
                    "loss_weights": sums["loss_weights"] + float(weights.sum()),
                }
                counts = held_out.counts(batch)
                logits.append(of_batch["logits"][counts.reshape(-1)])
                targets.append(arrays["targets"][counts])
            if not logits:
                continue
            metrics, tables[source] = label_scores(np.concatenate(logits), np.concatenate(targets), self._labels)
            metrics = (*self.phase.objective.metrics(sums, held_out.characters), *metrics)
            found += [metric.of(source) for metric in metrics]
            texts += held_out.read
        return Validation(tuple(found), texts, tables)

    @property
    def samples_drawn(self) -> int:
        return len(self._openings)

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        """The most probable labels of each text."""
        if self._classifier is None:
            head, codec = self.phase.objective.head, self.context.prepared.codec
            self._classifier = Classifier(
                self.plan.model, head, self.context.backend, trainer.weights, codec, trainer.layouts
            )
        try:
            given = self._openings[0].tokens  # all of them, or none
            answers = (
                self._classifier.of_rows([opening.tokens for opening in self._openings])
                if given
                else self._classifier.classify([opening.text for opening in self._openings])
            )
        except Exception as e:
            self._classifier = None  # nobody knows where it stopped
            why = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
            yield Sample(self._openings[0].text, "", "error", self._openings[0].origin, why)
            return
        for opening, answer in zip(self._openings, answers, strict=True):
            said = listed(answer) + (f" (it is {opening.answer})" if opening.answer else "")
            yield Sample(opening.text, f"→ {said}", "classified", opening.origin)
