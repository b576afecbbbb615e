"""Sources to their targets; validation also answers held-out pairs, by the most probable tokens, and compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from llmspec.core.metrics import Metric
from llmspec.core.text_scores import chrf, exact_match, rouge_l
from llmspec.data.validation import ValidationSet
from llmspec.decoding.generate import generate
from llmspec.model.cross_weights import CrossWeights
from llmspec.parts.phases.seq2seq import Seq2Seq as Phase
from llmspec.parts.tokenizers import Codec
from llmspec.spec.decoding import Decoding
from llmspec.training.prompts import Prompt
from llmspec.training.tasks.base import Looks, Validation, evenly
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer

SCORES: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "exact match": exact_match,
    "chrF": chrf,
    "ROUGE-L": rouge_l,
}
"""Name -> what compares answers with targets."""
KEPT = ("loss", "perplexity")
"""What is told of the loss beside them."""
LOOKS = 3
"""Words of a source that are told for each word of an answer."""


class Asked(NamedTuple):
    """Held-out pairs of a source that are answered."""

    sources: list[list[int]]
    targets: list[str]
    longest: int
    """Tokens of the longest target, its end included: an answer has no more."""


class Seq2Seq(Supervised):
    """Pairs of a source and its target; the tokens of the targets are predicted."""

    _asked: dict[str, Asked] | None = None
    _cross: CrossWeights | None = None

    def validate(self, trainer: Trainer) -> Validation:
        """The loss of every held-out target, and how near the answers to some of the sources are."""
        found = super().validate(trainer)
        metrics = [m for m in found.metrics if m.name in KEPT and m.unit != "nats/character"]
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
        codec, chosen = self.context.prepared.codec, [held_out.pair(i) for i in evenly(held_out.pairs, most)]
        return Asked(
            [source for source, _ in chosen],
            [codec.decode(target) for _, target in chosen],
            max(len(target) for _, target in chosen),
        )

    def looks(self, trainer: Trainer, prompt: Prompt, answer: Sequence[int]) -> Looks:
        """Of an encoder–decoder: how much each word of the answer looked at each of the source, where its tokens were
        chosen; the mean over layers, heads and the word's tokens."""
        codec, model = self.context.prepared.codec, self.plan.model
        start = codec.specials.start_of(model.decoder_start)
        if start is None or not answer:
            return ()
        if self._cross is None:
            self._cross = CrossWeights(model, self.context.backend, trainer.layouts)
        # What chose a token is the state after those before it.
        weights = self._cross(trainer.weights, prompt.tokens, [start, *answer[:-1]])
        return tuple(
            (text, most_looked_at(codec, prompt.tokens, weights[places].mean(axis=0)))
            for text, places in words(codec, answer)
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


def most_looked_at(codec: Codec, source: Sequence[int], weights: Any) -> tuple[tuple[str, float], ...]:
    """The words of a source that weigh most, of weights (S,) of its tokens, and their shares."""
    shares = [(text, round(float(weights[places].sum()), 3)) for text, places in words(codec, source)]
    return tuple(sorted(shares, key=lambda one: -one[1])[:LOOKS])


def words(codec: Codec, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """(text, places of its tokens) of every word of a text: what white space parts. Special tokens are none."""
    special, found = set(codec.specials.values()), list[tuple[str, list[int]]]()
    for text, places in stretches(codec, ids, special):
        if found and not text[:1].isspace() and not found[-1][0][-1:].isspace():
            found[-1] = found[-1][0] + text, [*found[-1][1], *places]
        else:
            found.append((text, places))
    return [(text.strip(), places) for text, places in found if text.strip()]


def stretches(codec: Codec, ids: Sequence[int], special: set[int]) -> Iterator[tuple[str, list[int]]]:
    """(text, places) of the shortest stretches of tokens that are whole characters."""
    held = list[int]()
    for place, token in enumerate(ids):
        if token in special:
            held = []
            continue
        held.append(place)
        text = b"".join(codec.token_bytes(ids[p]) for p in held).decode(errors="replace")
        if not text.endswith("\ufffd") or len(held) > 3:
            yield text, held
            held = []
