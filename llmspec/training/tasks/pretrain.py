"""Next-token prediction on plain text; samples continue the start of a text."""

from __future__ import annotations

from llmspec.training.tasks.supervised import Supervised


class Pretrain(Supervised):
    """Full blocks of text, each of whose tokens is predicted."""
