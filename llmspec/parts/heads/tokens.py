"""Logits of classes at every token, as in tagging."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.heads.labels import Labelled

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Tokens(Labelled):
    """Logits of `classes` for each token (Devlin et al. 2019, section 5.3)."""

    kind: Literal["tokens"] = "tokens"
    formula: ClassVar[str] = "logits = x·Wᵀ + bias"

    def features(self, ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
        return x_BTD
