"""Masked language modelling; samples fill the masked places of prompts, or of text that was held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import LlmspecError
from llmspec.data.inputs import VALIDATION
from llmspec.data.layout import Batch
from llmspec.decoding.filling import MASK, Filler, MaskedText, listed, masked_row, masked_text, shown, token_text
from llmspec.training.context import RunContext
from llmspec.training.tasks.base import Sample
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer

SHOWN = 32
"""Tokens of a text without a prompt of the spec, at most."""
CANDIDATES = 3
"""Tokens of a masked place that a sample shows."""


class Opening(NamedTuple):
    """A text whose masked places samples fill."""

    shown: str
    given: MaskedText
    answers: tuple[str, ...] = ()
    """What stood at the places, where that is known."""
    origin: str = ""
    """Where it was taken from; '' for what the spec says."""


class MaskedLM(Supervised):
    """Blocks of text, some of whose tokens are hidden and predicted."""

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        codec = context.prepared.codec
        self._framed = phase.phase.around(codec.specials) is not None
        prompts = phase.phase.prompts
        self._openings = [Opening(text, masked_text(codec, text, self._framed)) for text in prompts] or [self._first()]
        self._filler: Filler | None = None

    def _first(self) -> Opening:
        """The beginning of a row that is validated with, or else trained on."""
        held_out = [(s, found) for s, found in self.context.prepared.validation(self.plan.name).items() if len(found)]
        if held_out:
            source, batch = held_out[0][0], held_out[0][1].batch(0)
            return self._opening(self._arrays.asked(batch, VALIDATION, source, 0), f"validation text of {source}")
        source = self.stream.sources[int(self.stream.batch(0).source[0])]
        return self._opening(self._arrays.asked(self.stream.batch(0), 0, 0), f"training text of {source}")

    def _opening(self, batch: Batch, origin: str) -> Opening:
        """The beginning of a batch's first row, with the mask token at every place that is to be predicted; of a row of
        stretches between special tokens, that of the first stretch with such a place."""
        codec, begin, end = self.context.prepared.codec, 0, int(batch.filled[0])
        row, asked = batch.targets[0, :end].tolist(), batch.weights[0, :end] > 0
        if self._framed and asked.any():
            first, ends = int(asked.argmax()), codec.specials.need("sep")
            begin = first - row[first::-1].index(codec.specials.need("cls"))
            end = row.index(ends, first) + 1
        tokens, places = row[begin:end], [int(i) - begin for i in asked.nonzero()[0] if begin <= i < end]
        if end - begin > SHOWN:
            tokens, places = tokens[:SHOWN], [i for i in places if i < SHOWN]
        given = masked_row(codec, tokens, places)
        return Opening(
            MASK.join(given.pieces), given, tuple(shown(token_text(codec, tokens[i])) for i in places), origin
        )

    @property
    def samples_drawn(self) -> int:
        return len(self._openings)

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        """The most probable tokens of each masked place, place after place."""
        codec = self.context.prepared.codec
        if self._filler is None:
            held = trainer.weights, codec, trainer.layouts
            self._filler = Filler(self.plan.model, self.context.backend, *held)
        for opening in self._openings:
            try:
                filled = self._filler.fill(opening.given, CANDIDATES)
            except Exception as e:
                self._filler = None  # nobody knows where it stopped
                why = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
                yield Sample(opening.shown, "", "error", opening.origin, why)
                return
            answers = opening.answers or ("",) * len(filled.places)
            said = [
                listed(place) + (f" (it was {answer})" if answer else "")
                for place, answer in zip(filled.places, answers, strict=True)
            ]
            yield Sample(opening.shown, "→ " + " | ".join(said), "filled", opening.origin)
