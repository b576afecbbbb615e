"""Pairs of answers, without a reference."""

from llmspec.training.tasks.answers import Answers


class ORPO(Answers):
    """Rows of pairs, chosen and rejected."""
