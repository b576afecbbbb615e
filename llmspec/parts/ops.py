"""What parts may ask of the operations that they are given, without any tensor library.

Shape letters: B batch, T queries, S keys, H query heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Scores(NamedTuple):
    """How attention makes scores of queries and keys: softcap(scale · q·k) + bias, then the mask and the softmax.

    One description for every backend, forward and backward, so that a new term is added in one place.
    """

    scale: float | None = None
    """What products of queries and keys are multiplied with; 1/√d, d the head width, where None."""
    softcap: float | None = None
    """Bounds the scaled products softly, before the bias is added: x becomes softcap · tanh(x / softcap) (Gemma Team
    2024, arXiv:2408.00118, section 2). Positive; None for no bound."""
    bias: Any = None
    """A float32 tensor (B or 1, H, T, S) that is added; None for nothing."""
    bias_gradient: bool = False
    """Whether the bias is trained: its gradient is summed over the sequences that share it. A constant otherwise."""
