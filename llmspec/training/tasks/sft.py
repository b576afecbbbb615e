"""Supervised fine-tuning on dialogues; samples answer prompts, or the users' turns of held-out dialogues."""

from __future__ import annotations

from llmspec.training.tasks.supervised import Supervised


class SFT(Supervised):
    """Whole dialogues packed into blocks; the turns of the roles that the phase trains on are predicted."""
