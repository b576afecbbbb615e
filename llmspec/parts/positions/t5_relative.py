"""A trained bias of the scores for each bucket of distances (Raffel et al. 2020, arXiv:1910.10683, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.positions.base import Hooks, Position

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class T5Relative(Position):
    """A trained bias on attention scores by distance, in buckets that widen, shared by all layers (Raffel et al. 2020).

    Under a mask that lets tokens see later ones, half of the buckets are for keys that follow the query.
    """

    kind: Literal["t5_relative"] = "t5_relative"
    formula: ClassVar[str] = "score + table[bucket(p_key − p_query), head]"
    by_direction: ClassVar[bool] = True
    buckets: int = Field(32, ge=2, le=1 << 16)
    """Rows of the table: half of a direction's hold one distance each, the others ever more of them."""
    max_distance: int = Field(128, gt=1, le=1 << 24)
    """Distances from here on share the last bucket. Unit: tokens."""

    def check(self, dims: Dims) -> Iterable[Problem]:
        of_direction = self.buckets // 2 if dims.looks_ahead else self.buckets
        if (self.buckets % 2 and dims.looks_ahead) or of_direction < 2:
            yield Problem(
                f"{self.buckets} buckets cannot be those of each direction, of one distance and of more",
                ("buckets",),
                hint=f"buckets: {max(4, self.buckets + self.buckets % 2)}; 32 is T5's",
                consequence="some distances would have no bucket",
            )
        elif self.max_distance <= of_direction // 2:
            yield Problem(
                f"{of_direction // 2} buckets of a direction hold one distance each, and max_distance is "
                f"{self.max_distance}",
                ("max_distance",),
                hint=f"max_distance: more than {of_direction // 2}, or fewer buckets; 128 is T5's",
                consequence="the others could not widen",
            )

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (self.buckets, dims.heads), "embedding"),)

    def tables(self, dims: Dims) -> dict[str, Any]:
        """The bucket of each distance from 1 - context to context - 1, key - query."""
        import numpy as np

        ahead = np.arange(1 - dims.context, dims.context)
        count = self.buckets // 2 if dims.looks_ahead else self.buckets
        far = np.abs(ahead) if dims.looks_ahead else np.maximum(-ahead, 0)
        exact = count // 2
        # In float32 as T5 does it, which decides where a distance lies right between two buckets.
        share = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(self.max_distance / exact)
        )
        wide = np.minimum(exact + (share * np.float32(count - exact)).astype(np.int64), count - 1)
        bucket = np.where(far < exact, far, wide) + (count * (ahead > 0) if dims.looks_ahead else 0)
        return {"buckets": bucket.astype(np.float32)}

    def table_numbers(self, dims: Dims) -> int:
        return 2 * dims.context - 1

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The sum with each score, and its gradient."""
        return ElementwiseOps(1, 1).times(dims.heads * dims.seen)

    def build(self, dims: Dims) -> Hooks:
        def near(ops: Operations, w: WeightView) -> Tensor:
            return ops.embedding(w["weight"], w["buckets"].int()).transpose(0, 1).contiguous()

        return Hooks(near=near)
