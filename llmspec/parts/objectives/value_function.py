"""What a value function is, and what it learns: by how much it was wrong, held near what it was.

B rows, T places of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from llmspec.parts.base import Frozen
from llmspec.parts.others import StartModel

if TYPE_CHECKING:
    from llmspec.parts.objectives.base import Outputs
    from llmspec.parts.ops import Operations, Tensor

VALUES = "values"
VALUE_SUMS = ("value_loss", "value_clip_fraction")
"""Sums that are counted of it."""
CRITIC = "critic"
"""Role of a model beside the policy that says values."""


class ValueFunction(Frozen):
    """What is expected of an answer before each of its tokens: a head of the same model or of one beside it, and how it
    is trained."""

    head: str = "value"
    """The head that says it, which the phase adds where the model has none of that name."""
    body: str | StartModel | None = None
    """What reads answers for it; null: the policy's own body. A phase, such as the one that the policy starts from or a
    reward model, or `{model: FOLDER}`: a copy of that model, all of which is trained beside the policy, with a state of
    the optimizer of its own. It is in checkpoints, and in nothing that the phase leaves."""
    lr_multiplier: float = Field(1.0, gt=0, le=1e6)
    """What learning rates are multiplied with for that body and its head."""
    shared: bool = True
    """Whether its gradient reaches the layers that it shares with the policy; if not, it learns from their states as
    they are. With a `body` there are none."""
    coefficient: float = Field(0.1, gt=0)
    """What its loss, half the squared distance from the returns, is multiplied with."""
    clip_range: float | None = Field(0.2, gt=0)
    """How far a value moves from what it was when the answer was drawn until nothing more is gained by it; null: any
    way."""


def values(ops: Operations, outputs: Outputs) -> Tensor:
    """(B, T): the number of each state."""
    assert outputs.layer is not None, "the head has outputs"
    return ops.linear(outputs.features, outputs.layer).squeeze(-1)


def value_errors(values_BT: Tensor, inputs: Mapping[str, Tensor], bound: float | None) -> tuple[Tensor, Tensor]:
    """((B, T) squared distance of values from the returns, of those held near the old ones where that is larger;
    (B, T) whether it is). 0 where nothing counts."""
    counts_BT, returns_BT, old_BT = (inputs[name] for name in ("answers", "returns", "old_values"))
    plain_BT = ((values_BT - returns_BT) * counts_BT).square()
    if bound is None:
        return plain_BT, counts_BT * 0
    moved_BT = values_BT.detach() - old_BT
    near_BT = ((moved_BT.maximum(-bound).minimum(bound) + old_BT - returns_BT) * counts_BT).square()
    # Where the held value is the worse one it is a constant: it lies at the bound. Within the bound it is the value
    # itself, but for rounding, which must not take a gradient away.
    held_BT = (near_BT > plain_BT) & (moved_BT.abs() > bound)
    return held_BT.where(near_BT, plain_BT), held_BT
