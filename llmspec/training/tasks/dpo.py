"""Pairs of answers, against a reference that does not change."""

from llmspec.training.tasks.answers import Answers


class DPO(Answers):
    """Rows of pairs, chosen and rejected."""
