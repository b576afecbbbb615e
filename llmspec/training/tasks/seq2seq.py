"""Sources to their targets; validation also answers held-out pairs, by the most probable tokens, and compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmspec.core.metrics import Metric
from llmspec.core.text_scores import chrf, exact_match, rouge_l
from llmspec.data.validation import ValidationSet
from llmspec.decoding.generate import generate
from llmspec.parts.phases.seq2seq import Seq2Seq as Phase
from llmspec.spec.decoding import Decoding
from llmspec.training.tasks.base import Validation
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer

SCORES: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "exact match": exact_match,
    "chrF": chrf,
    "ROUGE-L": rouge_l,
}
"""Name -> what compares answers with targets."""


class Asked(NamedTuple):
    """Held-out pairs of a source that are answered."""

    sources: list[list[int]]
    targets: list[str]
    longest: int
    """Tokens of the longest target, its end included: an answer has no more."""


class Seq2Seq(Supervised):
    """Pairs of a source and its target; the tokens of the targets are predicted."""

    _asked: dict[str, Asked] | None = None

    def validate(self, trainer: Trainer) -> Validation:
        """The loss of every held-out target, and how near the answers to some of the sources are."""
        found = super().validate(trainer)
        metrics = list(found.metrics)
        for source, asked in self.asked().items():
            answers = self.answers(trainer, asked)
            metrics += [
                Metric(name, score(answers, asked.targets), better="higher").of(source)
                for name, score in SCORES.items()
            ]
        sources = dict.fromkeys(metric.source for metric in metrics)
        return Validation(tuple(m for source in sources for m in metrics if m.source == source), found.tokens)

    def asked(self) -> dict[str, Asked]:
        """By source: the pairs that are answered at each validation, always the same, spread evenly."""
        assert isinstance(self.phase, Phase)
        if self._asked is None:
            most, held_out = self.phase.generate_metrics, self.context.prepared.validation(self.plan.name)
            draws = most if self.plan.draws else 0
            self._asked = {name: self._some(found, draws) for name, found in held_out.items() if draws and found.pairs}
        return self._asked

    def _some(self, held_out: ValidationSet, most: int) -> Asked:
        codec, count = self.context.prepared.codec, min(most, held_out.pairs)
        chosen = [held_out.pair(i * held_out.pairs // count) for i in range(count)]
        return Asked(
            [source for source, _ in chosen],
            [codec.decode(target) for _, target in chosen],
            max(len(target) for _, target in chosen),
        )

    def answers(self, trainer: Trainer, asked: Asked) -> list[str]:
        """What the model says now, each time the most probable token."""
        decoding = Decoding.model_validate({"temperature": 0.0, "max_tokens": asked.longest})
        decoder, codec = self.decoder(trainer), self.context.prepared.codec
        try:
            return [said.text for said in generate(decoder, codec, asked.sources, decoding, seed=0)]
        except BaseException:
            self._decoder = None  # nobody knows where it stopped
            raise
