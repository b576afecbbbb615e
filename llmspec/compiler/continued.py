"""What a phase goes on from that was trained with other settings: part of its key, so that what it leaves is never
taken for something that was trained from the beginning."""

from __future__ import annotations

from pydantic import Field

from llmspec.parts.base import Frozen


class Continued(Frozen):
    """A checkpoint of other settings, and where the phase goes on from it."""

    key: str
    """Of the phase that the checkpoint is of."""
    step: int = Field(gt=0)
    """Of the checkpoint."""
    digest: str
    """Hash of the checkpoint's files."""
    first: int = Field(ge=0)
    """Steps of the phase that count as taken by then: as many as read the same amount of text."""
    updates: int = Field(ge=0)
    """Updates that the optimizer's state has seen; 0 where that starts anew."""
    state: bool
    """Whether the optimizer's state is taken, too."""
    said: tuple[str, ...] = ()
    """What will not be equal to a run from the beginning."""

    def identity(self) -> dict[str, object]:
        """What shapes the phase's result."""
        return self.model_dump(mode="json", exclude={"said"})
