"""Cached decoding: a prefill per prompt-length bucket and one decode step, all under TinyJit, for any number of caches.

Shape letters: R rows decoded side by side, T prompt tokens, S places of the cache (the context), K key/value heads,
d head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinygrad import Tensor, UOp

from llmspec.backends import owner
from llmspec.backends.backend import Graphs
from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import StaticInputs, tensors_from_numpy, to_numpy
from llmspec.compiler import walk
from llmspec.compiler.masks import decoding_ranges, range_inputs
from llmspec.compiler.memory import device_memory
from llmspec.compiler.plan import ModelPlan
from llmspec.core.hashing import digest
from llmspec.core.units import size
from llmspec.model.ids import token_ids, whole
from llmspec.model.steps import Tensors
from llmspec.model.transformer import AttentionContext, Transformer, ranges_in

SHORTEST = 16
"""Smallest prefill bucket, in tokens; buckets double from here up to the context."""


class KVCache:
    """Keys and values of what R rows have read, and how far they have come. A Decoder fills it; it goes with its owner.

    Several caches of one decoder do not know of each other.
    """

    def __init__(self, tensors: Tensors, rows: int, model: str) -> None:
        self.tensors, self.rows, self.model = tensors, rows, model
        self.length = 0
        """Tokens read: all rows stand at one position."""

    def __del__(self) -> None:
        owner.drop(self.tensors)


class Decoder:
    """Continues prompts with the weights it is given."""

    def __init__(self, plan: ModelPlan, backend: Backend, weights: Tensors) -> None:
        self.context, self.vocab = plan.context, plan.vocab
        self._plan, self._lowering, self._weights = plan, backend, weights
        self._model, self._key = Transformer(plan), digest(plan.model_dump(mode="json"))
        self._tables = tensors_from_numpy(**self._model.tables())
        self._place = UOp.variable("place", 0, plan.context - 1)
        self._feed = StaticInputs()
        self._prefills = Graphs(lambda: backend.jit(self._prefill_step, self._key))
        self._steps = Graphs(lambda: backend.jit(self._decode_step, self._key))

    def cache(self, rows: int = 1) -> KVCache:
        """An empty cache of `rows` rows. Raises RunError where memory does not suffice."""
        import numpy as np

        plan, rows = self._plan, whole("the number of rows", rows, 1)
        shapes = {
            f"{kind}{layer}": (rows, plan.context, dims.kv_heads, dims.head_dim)
            for layer, dims in enumerate(walk.layer_dims(plan))
            for kind in "kv"
        }
        needed, there = 4 * sum(map(math.prod, shapes.values())), device_memory("CPU")
        if self._lowering.inputs and there is not None and needed > there:
            raise owner.out_of_memory(
                f"the KV caches of {rows} rows take {size(needed)}, and this machine has {size(there)}"
            )
        with owner.turn():
            return KVCache(
                tensors_from_numpy(**{n: np.zeros(shape, np.float32) for n, shape in shapes.items()}), rows, self._key
            )

    def use(self, weights: Tensors) -> None:
        """Decode with these weights from now on."""
        self._weights = weights

    def prefill(self, tokens: Sequence[int], rows: int = 1, cache: KVCache | None = None) -> tuple[KVCache, Any]:
        """Reads 1 … context tokens into each of `rows` rows: their cache, and logits (R, V) float32 of what follows.

        A `cache` that is given is filled anew instead of another. Raises TypeError or ValueError for wrong tokens,
        RunError where memory ends. From any thread; each cache from one at a time.
        """
        import numpy as np

        ids = token_ids(tokens, self.vocab, self.context, axes=(1,))
        if cache is not None and rows not in (1, cache.rows):
            raise ValueError(f"the cache has {cache.rows} rows, not {rows}")
        cache = self._own(cache or self.cache(rows))
        bucket = min(self.context, max(SHORTEST, 1 << (len(ids) - 1).bit_length()))
        padded = np.zeros((cache.rows, bucket), np.int32)
        padded[:, : len(ids)] = ids
        with owner.turn():
            # The prompt is the prefix of a mask that has one.
            prefix = np.arange(bucket)[None] < len(ids)
            ranges = range_inputs(self._plan, False, bucket, None, [len(ids)], prefix)
            inputs = self._feed(tokens=padded, last=np.array([len(ids) - 1], np.int32), **ranges)
            cache.length = len(ids)
            return cache, self._run(self._prefills[cache.rows, bucket], cache, inputs)

    def step(self, cache: KVCache, tokens: Sequence[int]) -> Any:
        """Appends one token to each row; logits (R, V) float32 of the next. Raises as `prefill` does."""
        import numpy as np

        ids = token_ids(tokens, self.vocab, self._own(cache).rows, axes=(1,))
        if len(ids) != cache.rows:
            raise ValueError(f"a step takes one token for each of {cache.rows} rows, not {len(ids)}")
        if not 1 <= cache.length < self.context:
            raise ValueError(f"the context of {self.context} tokens is full" if cache.length else "no prompt was read")
        with owner.turn():
            inputs = self._feed(
                tokens=ids.reshape(cache.rows, 1),
                position=np.array([[cache.length]], np.int32),
                **decoding_ranges(self._plan, [cache.length]),
            )
            place = self._place.bind(cache.length)
            cache.length += 1
            return self._run(self._steps[cache.rows,], cache, inputs, place)

    def _own(self, cache: KVCache) -> KVCache:
        """Raises TypeError or ValueError for what is no cache of this model."""
        if not isinstance(cache, KVCache):
            raise TypeError(f"a KV cache is what `prefill` gives, not {type(cache).__name__}")
        if cache.model != self._key:
            raise ValueError("the KV cache belongs to a model of another shape")
        return cache

    def _run(self, jit: Any, cache: KVCache, inputs: Tensors, *place: UOp) -> Any:
        out = jit(self._weights, self._tables, cache.tensors, {**inputs, **self._lowering.inputs}, *place)
        return to_numpy(out)  # a copy: the returned tensor is overwritten by the next call

    # -- the graphs ----------------------------------------------------------------------------------------------
    def _prefill_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors) -> Tensor:
        tokens_RT = inputs["tokens"]
        length = int(tokens_RT.shape[1])
        positions = Tensor.arange(length).reshape(1, length)
        view = AttentionContext(positions, positions, ranges_in(inputs), self._writer(cache, 0, length, read=False))
        # The prompt's last token, wherever padding starts.
        return self._logits(weights, tables, inputs, view, inputs["last"])

    def _decode_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors, place: UOp) -> Tensor:
        keys, query = Tensor.arange(self.context), inputs["position"]
        view = AttentionContext(query, keys.reshape(1, -1), ranges_in(inputs), self._writer(cache, place, 1, read=True))
        return self._logits(weights, tables, inputs, view, None)

    def _logits(
        self, weights: Tensors, tables: Tensors, inputs: Tensors, view: AttentionContext, last: Tensor | None
    ) -> Tensor:
        ops, tensors = self._lowering.ops(inputs), {**weights, **tables}
        hidden = self._model.hidden(ops, tensors, inputs, view, last)
        logits = self._model.head(ops, tensors, hidden.contiguous()).reshape(int(hidden.shape[0]), -1).contiguous()
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
