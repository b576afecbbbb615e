"""Prefix language modelling; samples continue the start of a text."""

from __future__ import annotations

from llmspec.training.tasks.base import Validation
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import Trainer


class PrefixLM(Supervised):
    """Blocks of text of which what stands behind a drawn place is predicted."""

    def validate(self, trainer: Trainer) -> Validation:
        found = super().validate(trainer)
        return of_targets(found)


def of_targets(found: Validation) -> Validation:
    """The same without what is said of a text's characters, of which the targets are a part."""
    return found._replace(metrics=tuple(m for m in found.metrics if m.unit != "nats/character"))
