"""Every query head has its own keys and values (Vaswani et al. 2017, section 3.2.2)."""

from typing import Literal

from llmspec.parts.attentions.base import Attention


class MultiHead(Attention):
    """As many key/value heads as query heads."""

    kind: Literal["multi_head"] = "multi_head"

    def key_value_heads(self) -> int:
        return self.heads or 1
