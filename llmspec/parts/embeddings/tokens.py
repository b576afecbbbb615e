"""A trained vector for each token of the vocabulary, and what may stand around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.table import choice
from llmspec.parts import norms
from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.embeddings.base import Embedding, EmbeddingFunctions

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Tokens(Embedding):
    """A trained vector for each token of the vocabulary (Bengio et al. 2003)."""

    kind: Literal["tokens"] = "tokens"
    formula: ClassVar[str] = "norm(scale · table[token] + types[token type] + position)"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "scale": ("every token would have the same vector, 0", "every vector would be infinite or NaN")
    }
    scale: Annotated[float, Field(gt=0)] | Literal["sqrt_d_model"] | None = None
    """Factor on the tokens' vectors, before positions are added: a number, or `sqrt_d_model` for √d_model; none if
    omitted. As in Vaswani et al. 2017, section 3.4."""
    norm: Annotated[norms.Norm, choice(norms.TABLE, "layernorm")] | None = None
    """Norm of the sum of token, token type and position (Devlin et al. 2019); none where left open."""
    token_types: int | None = Field(None, gt=0, le=1 << 16)
    """How many kinds of tokens have a trained vector that is added, such as first and second sentence (Devlin et al.
    2019, section 3.2). Every token is of the first kind unless an input says otherwise; none if omitted."""

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        found = [TensorSpec("weight", (dims.vocab, dims.d_model), "embedding")]
        if self.token_types:
            found.append(TensorSpec("token_types.weight", (self.token_types, dims.d_model), "embedding"))
        if self.norm is not None:
            found += [t._replace(name=f"norm.{t.name}") for t in self.norm.tensors(dims)]
        return tuple(found)

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """A factor and a sum for each number, and the norm."""
        factor = ElementwiseOps(1, 1).times(dims.d_model if self.scale else 0)
        types = ElementwiseOps(1, 1).times(dims.d_model if self.token_types else 0)
        return factor.plus(types, self.norm.elementwise(dims) if self.norm is not None else ElementwiseOps())

    def saved_for_backward(self, dims: Dims) -> float:
        """What the norm keeps."""
        return self.norm.saved_for_backward(dims) if self.norm is not None else 0.0

    def build(self, dims: Dims) -> EmbeddingFunctions:
        scale = math.sqrt(dims.d_model) if self.scale == "sqrt_d_model" else self.scale

        def vectors(ops: Operations, w: WeightView, inputs: Mapping[str, Tensor]) -> Tensor:
            table = w.linear("")
            x_BTD = ops.embedding(table.weight, inputs["tokens"], table.quantised)
            x_BTD = x_BTD if scale is None else x_BTD * scale
            if not self.token_types:
                return x_BTD
            types = w["token_types.weight"]
            return x_BTD + (ops.embedding(types, inputs["token_types"]) if "token_types" in inputs else types[:1])

        norm = self.norm.build(dims) if self.norm is not None else None
        return EmbeddingFunctions(vectors, norm and (lambda ops, w, x_BTD: norm(ops, w.under("norm"), x_BTD)))
