"""Logits of classes, one decision a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.heads.labels import Labelled
from llmspec.parts.heads.pooling import PooledHead

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Classes(Labelled, PooledHead):
    """Logits of `classes` for a whole sequence (Devlin et al. 2019, section 4.1)."""

    kind: Literal["classes"] = "classes"
    formula: ClassVar[str] = "logits = pooled(x)·Wᵀ + bias"
    multi_label: bool = False
    """Whether each class is a yes or no of its own, so that a text has none, one or several; otherwise exactly one."""

    def features(self, ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
        return self.pooled(ops, w, x_BTD, filled_BT)
