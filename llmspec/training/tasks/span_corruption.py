"""Spans of text that are left out; samples say what stood at the places of prompts, or of text that was held out."""

from __future__ import annotations

from llmspec.decoding.generate import Generation
from llmspec.decoding.spans import spans_said
from llmspec.training.prompts import BETWEEN, Prompt
from llmspec.training.tasks.base import Validation
from llmspec.training.tasks.prefix_lm import of_targets
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer


class SpanCorruption(Supervised):
    """Stretches of text of which spans are left out, and predicted behind their sentinels."""

    def validate(self, trainer: Trainer) -> Validation:
        return of_targets(super().validate(trainer))

    def said(self, prompt: Prompt, answer: Generation) -> str:
        """What is said of each place, one after another."""
        codec = self.context.prepared.codec
        places = sum(token in codec.specials.sentinels for token in prompt.tokens)
        return BETWEEN.join(text.strip() for text in spans_said(codec, answer.tokens, places))
