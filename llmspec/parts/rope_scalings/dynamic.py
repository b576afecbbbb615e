"""A base that grows with texts longer than those of training (dynamic NTK; Peng et al. 2023, arXiv:2309.00071)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.rope_scalings.base import RopeScaling, plain_frequencies

if TYPE_CHECKING:
    import numpy as np


class Dynamic(RopeScaling):
    """The base grows with a text's length beyond `original_context` (dynamic NTK, Peng et al. 2023, arXiv:2309.00071).

    A text's length is that of all tokens that are read at once. Keys in a cache keep the angles that they had when
    they were read, as in transformers; so an answer longer than `original_context` has other logits than the same text
    read anew.
    """

    kind: Literal["dynamic"] = "dynamic"
    formula: ClassVar[str] = "θ becomes θ·(factor·L/original − factor + 1)^(d/(d−2)) for texts of L > original tokens"
    original_context: int = Field(gt=0, le=1 << 40)
    """The longest text that the model was trained on. Unit: tokens."""

    def check(self, width: int) -> Iterable[Problem]:
        if width < 4:
            yield Problem(
                f"a base that grows by the power d/(d−2) needs at least 4 numbers that turn, and a head has {width}",
                ("kind",),
                hint="a wider head, or another kind of scaling",
                consequence="the power would be infinite",
            )

    def frequencies(self, theta: float, width: int, length: int) -> np.ndarray:
        longer = max(1.0, length / self.original_context)
        return plain_frequencies(theta * (self.factor * longer - self.factor + 1) ** (width / (width - 2)), width)

    def fixed_up_to(self) -> int:
        return self.original_context
