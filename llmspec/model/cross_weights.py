"""What a decoder's tokens look at of the text that its encoder reads.

Shape letters: L layers, B batch, T queries, S keys, H heads, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad import Tensor

from llmspec.backends import owner
from llmspec.backends.plain.backend import Backend
from llmspec.backends.plain.ops import Ops
from llmspec.backends.tensors import tensors_from_numpy, to_numpy
from llmspec.compiler.masks import CROSS, ENCODER, encoder_inputs, range_inputs
from llmspec.compiler.plan import ModelPlan
from llmspec.model.transformer import Transformer, block_context, graph_key
from llmspec.parts.ops import Scores, WeightLayout


class CrossWeights:
    """The weights of cross-attention: of a source of up to S tokens, for up to T tokens of the decoder."""

    def __init__(self, plan: ModelPlan, backend: Backend, layouts: Mapping[str, WeightLayout]) -> None:
        assert plan.encoder is not None, "a decoder alone looks at itself"
        self._plan, self._backend, self._model = plan, backend, Transformer(plan, layouts)
        with owner.turn():
            self._tables = tensors_from_numpy(**self._model.tables())
            self._graph = backend.jit(self._forward, graph_key(plan, layouts, "cross weights"))

    def __call__(self, weights: Mapping[str, Tensor], source: list[int], read: list[int]) -> Any:
        """(T, S) float64: how much each of the tokens that the decoder has `read` looked at each of the source's, the
        mean over layers and heads; every row sums to 1 but for sinks."""
        import numpy as np

        plan = self._plan
        arrays: dict[str, Any] = {"tokens": padded(read, plan.context), **range_inputs(plan, False, plan.context)}
        arrays[f"{ENCODER}tokens"] = padded(source, plan.encoder_context)
        arrays |= encoder_inputs(plan, [len(source)], plan.encoder_context, plan.context)
        with owner.turn():
            inputs = {**tensors_from_numpy(**arrays), **self._backend.inputs}
            found = to_numpy(self._graph(weights, self._tables, inputs))
        return found[: len(read), : len(source)].astype(np.float64)

    def _forward(self, weights: Any, tables: Any, inputs: Any) -> Tensor:
        ops, means = self._backend.ops(inputs), list[Tensor]()
        inner, plain = ops.attention, Ops()

        def attention(q: Tensor, k: Tensor, v: Tensor, ranges: Tensor, scores: Scores) -> Tensor:
            if ranges is inputs[CROSS]:
                # Attention gives a mean of values: of values that are 1 at one place each, the weights themselves.
                keys = int(k.shape[1])
                ones = Tensor.eye(keys).reshape(1, keys, 1, keys).expand(k.shape[0], keys, k.shape[2], keys)
                means.append(plain.attention(q, k, ones, ranges, scores).mean(axis=2))
            return inner(q, k, v, ranges, scores)

        ops.attention = attention  # type: ignore[assignment, method-assign]
        self._model.hidden(ops, {**weights, **tables}, inputs, block_context(inputs))
        return Tensor.stack(*means).mean(axis=0)[0].contiguous().realize()


def padded(ids: list[int], length: int) -> Any:
    """(1, length) int32, zeros behind the ids."""
    import numpy as np

    found = np.zeros((1, length), np.int32)
    found[0, : len(ids)] = ids
    return found
