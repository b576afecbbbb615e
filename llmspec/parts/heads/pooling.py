"""One vector for a sequence of hidden states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import Head

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView

Pooling = Literal["mean", "cls", "last"]


class PooledHead(Head):
    """A head that says one thing a sequence."""

    per_sequence: ClassVar[bool] = True
    pooling: Pooling = "mean"
    """What stands for a sequence: the mean of its tokens, its first token (cls) or its last one."""
    pooler: bool = False
    """Whether that passes through a dense layer and tanh (Devlin et al. 2019; google-research/bert, modeling.py)."""
    max_tokens: int | None = Field(None, gt=0, le=1 << 24)
    """Tokens of a text that are read, at most; as many as the context if omitted."""

    def check(self, dims: Dims) -> Iterable[Problem]:
        if self.max_tokens is not None and self.max_tokens > dims.context:
            yield Problem(
                f"texts of {self.max_tokens} tokens are longer than the context of {dims.context}",
                ("max_tokens",),
                f"max_tokens: {dims.context}, or a longer model.context",
                "the model knows no place beyond its context",
            )

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        """The pooler's."""
        d = dims.d_model
        both = (TensorSpec("pooler.weight", (d, d), "matrix"), TensorSpec("pooler.bias", (d,), "bias"))
        return both if self.pooler else ()

    def pooled(self, ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
        """(B, D): what stands for each sequence, through the pooler where there is one."""
        x_BD = pooled(ops, self.pooling, x_BTD, filled_BT)
        return ops.linear(x_BD, w.linear("pooler")).tanh() if self.pooler else x_BD


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
