"""One vector for a sequence of hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor

Pooling = Literal["mean", "cls", "last"]


def pooled(ops: Operations, pooling: Pooling, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
    """(B, D): the mean over the tokens that are no padding, the first token's state, or the last one's.

    `filled_BT` (bool) tells tokens from padding, which stands at the end; None where there is none.
    """
    if pooling == "cls":
        return x_BTD[:, 0]
    if filled_BT is None:
        return x_BTD[:, -1] if pooling == "last" else x_BTD.mean(1)
    counts_BT1 = filled_BT.cast(x_BTD.dtype).unsqueeze(-1)
    if pooling == "mean":
        return (x_BTD * counts_BT1).sum(1) / counts_BT1.sum(1).maximum(1)
    after_BT1 = counts_BT1.cat(counts_BT1[:, :1] * 0, dim=1)[:, 1:]  # 1 where a token follows
    return (x_BTD * (counts_BT1 - after_BT1)).sum(1)
