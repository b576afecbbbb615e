"""What a file of weights in types of fewer bits is, and what it costs."""

from __future__ import annotations

from llmspec.exchange.held_out import Cost
from llmspec.parts.base import Frozen


class OddRows(Frozen):
    """Tensors whose rows are no whole blocks of a type."""

    type: str
    length: int
    """Numbers of a row."""
    tensors: int
    """How many there are."""


class FileFigures(Frozen):
    """What a file of weights is, whose numbers were rounded."""

    weights: str
    """Type that was asked for; '' where each tensor stayed in the one that it had."""
    counts: dict[str, int]
    """Type -> tensors."""
    size: int
    """Bytes of all tensors."""
    rows: tuple[OddRows, ...]
    """Tensors that are in another type than they were to have."""
    cost: Cost | None
    """What the file costs; None where it was not measured."""
    unmeasured: str
    """Why it was not, in words."""
    notices: tuple[str, ...]
    """What the format cannot say of the tokenizer, and Ollama's Modelfile of how text is drawn."""
