"""Supervised fine-tuning on dialogues; samples answer prompts, or the users' turns of held-out dialogues."""

from __future__ import annotations

from llmspec.data.inputs import Arrays
from llmspec.data.reduction import by_sample
from llmspec.training.tasks.supervised import Supervised


class SFT(Supervised):
    """Whole dialogues packed into blocks; the turns of the roles that the phase trains on are predicted."""

    def batches(self, step: int) -> list[Arrays]:
        found = super().batches(step)
        return by_sample(self._read, found) if getattr(self.phase, "loss_reduction", "token") == "sample" else found
