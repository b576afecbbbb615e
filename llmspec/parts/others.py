"""Models that a phase names: the one that it starts from, and others that stand beside it, frozen: a teacher."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from llmspec.core.problems import Path
from llmspec.parts.base import Frozen


class StartModel(Frozen):
    """Weights of a model that is there already."""

    model: str = Field(min_length=1)
    """Folder of a run, of a model without one, or of transformers."""
    digest: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hash (hex) that its weights are to have; noted if omitted."""


class Other(NamedTuple):
    """A model that stands beside the one that a phase trains: it reads the same tokens, and nothing of it changes."""

    role: str
    """What it is to the phase, such as `teacher`."""
    path: Path
    """The key that names it, as seen from the phase."""
    model: str | StartModel
    """A phase, whose artifact it is, or a model that is there already."""
    takes: tuple[str, ...]
    """Sorts of artifacts that it may be."""

    @property
    def phase(self) -> str:
        """The phase whose artifact it is; '' where it is there already."""
        return self.model if isinstance(self.model, str) else ""


NAMED: tuple[tuple[str, ...], ...] = (("objective", "teacher"),)
"""Keys of a phase that name such a model. What names them is read before phases are, so that all mistakes are found."""
