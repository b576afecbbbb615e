"""Next-token prediction on plain text."""

from typing import Literal

from llmspec.parts.phases.plain import PlainText


class Pretrain(PlainText):
    """Predicts every next token of plain text, packed into full blocks."""

    kind: Literal["pretrain"] = "pretrain"
