"""Cached decoding: a prefill per prompt-length bucket and one decode step, all under TinyJit.

Shape letters: R rows decoded side by side, T prompt tokens, S places of the cache (the context), K key/value heads,
d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad import Tensor, UOp

from llmspec.compiler.masks import Mask
from llmspec.compiler.plan import ModelPlan
from llmspec.core.hashing import digest
from llmspec.model.lowering import Feed, Lowering, host, numpy_inputs
from llmspec.model.steps import Tensors
from llmspec.model.transformer import Transformer, View

SHORTEST = 16
"""Smallest prefill bucket, in tokens; buckets double from here up to the context."""


class Decoder:
    """Continues prompts with the weights it is given. Each row has its own cache; all rows stand at one position."""

    def __init__(self, plan: ModelPlan, lowering: Lowering, weights: Tensors) -> None:
        self.context, self.rows = plan.context, 0
        self._plan, self._lowering, self._weights = plan, lowering, weights
        self._model, self._key = Transformer(plan), digest(plan.model_dump(mode="json"))
        self._tables = numpy_inputs(**self._model.tables())
        self._place = UOp.variable("place", 0, plan.context - 1)
        self._length, self._feed = 0, Feed()

    def _allocate(self, rows: int) -> None:
        """Caches and graphs for another number of rows."""
        import numpy as np

        plan = self._plan
        names = [f"{kind}{layer}" for layer in range(plan.layers) for kind in "kv"]
        shape = (rows, plan.context, plan.kv_heads, plan.head_dim)
        self._cache = numpy_inputs(**{n: np.zeros(shape, np.float32) for n in names})
        self._prefills: dict[int, Any] = {}
        self._decode = self._lowering.jit(self._decode_step, self._key)
        self.rows = rows

    def use(self, weights: Tensors) -> None:
        """Decode with these weights from now on."""
        self._weights = weights

    def start(self, tokens: Sequence[int], rows: int = 1) -> Any:
        """Reads a prompt of 1 … context tokens into each of `rows` rows; logits (R, V) float32 of what follows."""
        import numpy as np

        if rows != self.rows:
            self._allocate(rows)
        if not 1 <= len(tokens) <= self.context:
            raise ValueError(f"a prompt has 1 to {self.context} tokens, not {len(tokens)}")
        bucket = min(self.context, max(SHORTEST, 1 << (len(tokens) - 1).bit_length()))
        padded = np.zeros((self.rows, bucket), np.int32)
        padded[:, : len(tokens)] = tokens
        if bucket not in self._prefills:
            self._prefills[bucket] = self._lowering.jit(self._prefill_step, self._key)
        inputs = self._feed(tokens=padded, last=np.array([len(tokens) - 1], np.int32), spans=Mask().spans(bucket))
        self._length = len(tokens)
        return self._run(self._prefills[bucket], inputs)

    def step(self, tokens: Sequence[int]) -> Any:
        """Appends one token to each row; logits (R, V) float32 of the next."""
        import numpy as np

        if self._length >= self.context:
            raise ValueError(f"the context of {self.context} tokens is full")
        inputs = self._feed(tokens=np.asarray(tokens, np.int32).reshape(self.rows, 1),
                              position=np.array([[self._length]], np.int32),
                              spans=np.array([[[0, self._length + 1]]], np.int32))
        place = self._place.bind(self._length)
        self._length += 1
        return self._run(self._decode, inputs, place)

    def _run(self, jit: Any, inputs: Tensors, *place: UOp) -> Any:
        out = jit(self._weights, self._tables, self._cache, {**inputs, **self._lowering.inputs}, *place)
        return host(out)  # a copy: the returned tensor is overwritten by the next call

    # -- the graphs ----------------------------------------------------------------------------------------------
    def _prefill_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors) -> Tensor:
        tokens_RT = inputs["tokens"]
        length = int(tokens_RT.shape[1])
        positions = Tensor.arange(length).reshape(1, length)
        view = View(positions, positions, inputs["spans"], memory=self._writer(cache, 0, length, read=False))
        # The prompt's last token, wherever padding starts.
        return self._logits(weights, tables, inputs, view, inputs["last"])

    def _decode_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors, place: UOp) -> Tensor:
        keys, query = Tensor.arange(self.context), inputs["position"]
        view = View(query, keys.reshape(1, -1), inputs["spans"], memory=self._writer(cache, place, 1, read=True))
        return self._logits(weights, tables, inputs, view, None)

    def _logits(self, weights: Tensors, tables: Tensors, inputs: Tensors, view: View, last: Tensor | None) -> Tensor:
        ops, tensors = self._lowering.ops(inputs), {**weights, **tables}
        hidden = self._model.hidden(ops, tensors, inputs["tokens"], view, last)
        logits = self._model.head(ops, tensors, hidden.contiguous()).reshape(self.rows, -1).contiguous()
        Tensor.realize(logits, *self._written)
        return logits

    def _writer(self, cache: Tensors, place: int | UOp, length: int, read: bool) -> Any:
        """Stores new keys and values at `place`; gives back the whole cache, or in a prefill nothing."""
        self._written: list[Tensor] = []

        def store(name: str, new_RTKd: Tensor) -> Tensor:
            whole = cache[name]
            written = whole.uop.after(whole[:, place : place + length].uop.store(new_RTKd.uop))
            self._written.append(Tensor(written))
            return self._written[-1]

        def memory(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
            seen = store(f"k{layer}", k), store(f"v{layer}", v)
            return seen if read else None

        return memory
