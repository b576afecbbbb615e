"""Next-token prediction on plain text."""

from typing import Literal

from llmspec.parts.phases.base import Phase


class Pretrain(Phase):
    """Predicts every next token of plain text, packed into full blocks."""

    kind: Literal["pretrain"] = "pretrain"
