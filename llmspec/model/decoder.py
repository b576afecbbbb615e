"""Cached decoding: prefills by number of prompts and by length bucket, and one step, all under TinyJit.

Shape letters: R rows of the cache, B prompts read at once, T prompt tokens, S places of a row, K key/value heads,
d head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tinygrad import Tensor

from llmspec.backends import owner
from llmspec.backends.backend import Graphs
from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import Slots, StaticInputs, memory
from llmspec.compiler import walk
from llmspec.compiler.decoding_cost import read_shares
from llmspec.compiler.kept import KEPT_BLOCK, kept_unfit
from llmspec.compiler.masks import (
    CROSS,
    RANGES,
    cross_ranges,
    decoding_range,
    decoding_ranges,
    encoder_inputs,
    masks_of,
    range_inputs,
)
from llmspec.compiler.memory import device_memory
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import RunError
from llmspec.core.units import size
from llmspec.model import buckets
from llmspec.model.ids import token_ids, whole
from llmspec.model.kv_cache import CROSS as CROSSED
from llmspec.model.kv_cache import KINDS, SCALES, KVCache
from llmspec.model.position_tables import PositionTables
from llmspec.model.steps import Tensors
from llmspec.model.transformer import AttentionContext, Transformer, graph_key, ranges_in
from llmspec.parts.ops import Kept, WeightLayout

SHARE = 0.25
"""Of a machine's memory, what the KV caches of a batch may take."""

LITTLE = 1 << 28
"""Bytes of KV caches that are not worth a graph for shorter ones."""


class Decoder:
    """Continues prompts with the weights it is given, each row of a cache by itself.

    On the CPU a row's logits are, bit for bit, those that it has alone, whatever other rows stand beside it.
    """

    def __init__(
        self,
        plan: ModelPlan,
        backend: Backend,
        weights: Tensors,
        start: int | None = None,
        layouts: Mapping[str, WeightLayout] = MappingProxyType({}),
    ) -> None:
        """`start` is the id of what the decoder's text begins with, in a model with an encoder; `layouts` are those of
        weights that stay quantised, as `backend.hold` gives them."""
        if plan.encoder is not None and start is None:
            raise ValueError("the decoder of a model with an encoder needs the token that its text begins with")
        self.context, self.vocab, self.encoder_context = plan.context, plan.vocab, plan.encoder_context
        self._start = start
        self._plan, self._backend, self._weights = plan, backend, weights
        self._model, self._key = Transformer(plan, layouts), graph_key(plan, layouts)
        self.positions = PositionTables(self._model.positions, backend)
        self._anew = walk.follows_length(plan, plan.decoder)
        """Whether a text is read from its beginning, since what was made of its first tokens is another thing then."""
        self._feed, self._slots = StaticInputs(), dict[int, Slots]()
        self._masks = {RANGES + name: mask for name, mask in masks_of(plan).items()}
        self._encodings = Graphs(lambda: backend.jit(self._encode_step, self._key))
        self._prefills = Graphs(lambda: backend.jit(self._prefill_step, self._key))
        self._extensions = Graphs(lambda: backend.jit(self._extend_step, self._key))
        self._steps = Graphs(lambda: backend.jit(self._decode_step, self._key))

    # -- caches --------------------------------------------------------------------------------------------------
    def row_bytes(self, places: int | None = None, kind: str = "f32") -> int:
        """Bytes of the KV cache for each row of so many places, the context where left out."""
        import numpy as np

        shapes = self._shapes(1, places or self.context, kind).values()
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for shape, dtype in shapes)

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that a token reads, on average, as they lie in memory."""
        return int(sum(int(self._weights[name].nbytes()) * share for name, share in read_shares(self._plan).items()))

    def fit(self, rows: int, tokens: int, kind: str = "f32") -> tuple[int, int]:
        """How many rows, up to `rows`, and of how many places, at least `tokens`, a cache is to have.

        A row has the whole context, so that few graphs are made, where that is little memory; otherwise as many places
        as are needed, and as many rows as SHARE of this machine's memory holds.
        """
        there, places = device_memory("CPU"), self.context
        most = float("inf") if there is None else SHARE * there
        needed = min(self.context, max(buckets.SHORTEST, 1 << (tokens - 1).bit_length()))
        if rows * self.row_bytes(places, kind) > min(LITTLE, most):
            places = needed
        held = rows if most == float("inf") else int(most // self.row_bytes(places, kind))
        return max(1, min(rows, held)), places

    def worth(self, kept: int, tokens: int) -> bool:
        """Whether a prompt of so many tokens is read faster after `kept` of them, with the same logits."""
        return self._continues and self._backend.continues and kept > 0 and buckets.saves(kept, tokens, self.context)

    @property
    def _continues(self) -> bool:
        """Whether what was made of a text's beginning stays as it is, whatever follows."""
        causal = all(mask.causal for mask in masks_of(self._plan).values())
        return causal and not self.encoder_context and not self._anew

    def cache(self, rows: int = 1, places: int | None = None, kind: str = "f32") -> KVCache:
        """An empty cache of `rows` rows for `places` tokens each, the context where left out; `kind` is f32, f16 or
        q8_0, to which keys and values are rounded.

        Raises RunError where memory does not suffice, or heads are no whole blocks of q8_0.
        """
        rows = whole("the number of rows", rows, 1)
        places = self.context if places is None else whole("the number of places", places, 1, self.context)
        if kind not in KINDS:
            raise ValueError(f"a KV cache holds {', '.join(KINDS)}, not {kind!r}")
        if unfit := kept_unfit(self._plan, kind):
            raise RunError(unfit, hint="decoding.kv_cache: f16")
        needed, there = rows * self.row_bytes(places, kind), device_memory("CPU")
        if self._backend.inputs and there is not None and needed > there:
            raise owner.out_of_memory(
                f"the KV caches of {rows} rows take {size(needed)}, and this machine has {size(there)}"
            )
        with owner.turn():
            return KVCache(self._backend.zeros(self._shapes(rows, places, kind)), rows, places, self._key, kind)

    def grown(self, cache: KVCache, places: int) -> KVCache:
        """A cache of more places, whose rows have read the same; raises as `cache` does."""
        wider = self.cache(self._own(cache).rows, places, cache.kind)
        with owner.turn():
            for name, tensor in cache.tensors.items():
                old, new, longest = memory(tensor), memory(wider.tensors[name]), max(cache.lengths)
                if old is None or new is None:  # not in this memory: it is read anew
                    return wider
                of = slice(None) if name.startswith(CROSSED) else slice(longest)
                new[:, of] = old[:, of]
        wider.read, wider.sources = [list(r) for r in cache.read], [list(s) for s in cache.sources]
        return wider

    def _shapes(self, rows: int, places: int, kind: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and numpy's type of each tensor; keys and values of an encoder's states are not rounded."""
        found: dict[str, tuple[tuple[int, ...], str]] = {}
        for layer, dims in enumerate(walk.layer_dims(self._plan)):
            for which in "kv":
                held = (rows, places, dims.kv_heads)
                found[f"{which}{layer}"] = (*held, dims.head_dim), KINDS[kind]
                if kind == "q8_0":
                    found[f"{which}{layer}{SCALES}"] = (*held, dims.head_dim // KEPT_BLOCK), "float16"
        for layer, dims in walk.cross_layers(self._plan):
            for which in "kv":
                shape = (rows, self.encoder_context, dims.kv_heads, dims.head_dim)
                found[f"{CROSSED}{which}{layer}"] = shape, "float32"
        return found

    def use(self, weights: Tensors) -> None:
        """Decode with these weights from now on."""
        self._weights = weights

    # -- reading -------------------------------------------------------------------------------------------------
    def prefill(
        self,
        prompts: Sequence[Sequence[int]],
        cache: KVCache | None = None,
        rows: Sequence[int] | None = None,
        reuse: bool = True,
    ) -> tuple[KVCache, Any]:
        """Reads prompts, each of 1 … S tokens, into rows of a cache (the first ones, or those named; a new cache where
        none is given): the cache, and logits (prompts, V) float32 of what follows each.

        A row that holds the beginning of its prompt already is continued, unless `reuse` is off or what is made of
        tokens depends on later ones; what else it held is forgotten. In a model with an encoder that reads the prompts,
        and rows begin with the start token. Raises TypeError or ValueError for wrong tokens, RunError where memory
        ends. From any thread; each cache from one at a time.
        """
        import numpy as np

        if not isinstance(prompts, list | tuple) or not prompts or any(hasattr(p, "__index__") for p in prompts):
            raise TypeError("prompts are a list of lists of token ids, one for each prompt")
        places = self.context if cache is None else self._own(cache).places
        ids = [token_ids(p, self.vocab, self.encoder_context or places, axes=(1,)) for p in prompts]
        cache = cache or self.cache(len(ids))
        to = list(range(len(ids))) if rows is None else [whole("a row", r, 0, cache.rows - 1) for r in rows]
        if len(ids) > cache.rows or len(to) != len(ids) or len({*to}) != len(to):
            raise ValueError(f"{len(ids)} prompts need as many rows, and the cache has {cache.rows}; given: {to}")
        if self.encoder_context:
            return cache, self._encoded(cache, ids, to)
        out = np.empty((len(ids), self.vocab), np.float32)
        reuse = reuse and self._continues
        starts = [buckets.kept(cache.read[r], p, places) if reuse else 0 for r, p in zip(to, ids, strict=True)]
        for row, start in zip(to, starts, strict=True):
            cache.shorten(row, start)
        for i, (row, prompt) in enumerate(zip(to, ids, strict=True)):
            starts[i] = self._read_pieces(cache, row, prompt, starts[i])
        for some in buckets.batches(ids, starts, places):
            with owner.turn():
                out[some] = self._read(cache, [ids[i] for i in some], [to[i] for i in some], [starts[i] for i in some])
        for r, p in zip(to, ids, strict=True):
            cache.read[r] = p.tolist()
        return cache, out

    def _read_pieces(self, cache: KVCache, row: int, prompt: Any, start: int) -> int:
        """Reads a long prompt from `start` on up to its last piece, whose beginning it returns.

        Only where C functions continue a prompt bit for bit; elsewhere padding costs less than one more graph.
        """
        if not (self._backend.inputs and self._backend.continues and self._continues):
            return start
        for end in buckets.pieces(start, len(prompt), cache.places)[:-1]:
            with owner.turn():
                self._read(cache, [prompt[:end]], [row], [start])
            start = end
        return start

    def _encoded(self, cache: KVCache, ids: list[Any], to: list[int]) -> Any:
        """Logits (prompts, V) after the start token, once the encoder has read the prompts for those rows."""
        import numpy as np

        for some in buckets.batches(ids, [0] * len(ids), self.encoder_context):
            bucket, count = buckets.bucket(len(ids[some[0]]), self.encoder_context), buckets.together(len(some))
            tokens, places = np.zeros((count, bucket), np.int32), np.zeros((count, 3), np.int32)
            for i, prompt in enumerate(some):
                tokens[i, : len(ids[prompt])] = ids[prompt]
                places[i] = to[prompt], 0, len(ids[prompt])
            ranges = encoder_inputs(self._plan, places[:, 2], bucket, 1)
            self.positions.reach(bucket)
            with owner.turn():
                graph = self._encodings[cache.kind, cache.rows, cache.places, count, bucket]
                self._run(graph, cache, self._fed(encoder_tokens=tokens, places=places, **ranges))
        for row, prompt in zip(to, ids, strict=True):
            cache.read[row], cache.sources[row] = [], prompt.tolist()
        chosen = set(to)
        out = self.step(cache, [self._start or 0] * cache.rows, [row in chosen for row in range(cache.rows)])
        return out[to]

    def _read(self, cache: KVCache, ids: list[Any], rows: list[int], starts: list[int]) -> Any:
        """Logits after prompts whose rests lie in one bucket, from `starts` on; all of them 0, or none."""
        import numpy as np

        bucket, count = buckets.bucket(len(ids[0]) - starts[0], cache.places), buckets.together(len(ids))
        tokens, places = np.zeros((count, bucket), np.int32), np.zeros((count, 3), np.int32)
        self.positions.reach(min(max(starts) + bucket, self.context))
        for i, (prompt, row, start) in enumerate(zip(ids, rows, starts, strict=True)):
            tokens[i, : len(prompt) - start] = prompt[start:]
            places[i] = row, start, len(prompt) - start
        arrays = {"tokens": tokens, "places": places, "last": np.maximum(places[:, 2] - 1, 0)}
        # Of a cache that rounds, prompts see what it holds also from their beginning, so that it does not matter what
        # was kept.
        if not any(starts) and not (cache.kind != "f32" and self._continues):
            graph = self._prefills[cache.kind, cache.rows, cache.places, count, bucket]
            lengths = places[:, 2]
            prefix = np.arange(bucket) < lengths[:, None]  # the prompt is the prefix of a mask that has one
            ranges = range_inputs(self._plan, False, bucket, None, lengths, prefix)
            return self._run(graph, cache, self._fed(**arrays, **ranges))[: len(ids)]
        positions = np.minimum(places[:, 1:2] + np.arange(bucket, dtype=np.int32), cache.places - 1)
        ranges = {
            n: r.reshape(count, bucket, 2) for n, r in decoding_ranges(self._plan, positions.ravel().tolist()).items()
        }
        graph = self._extensions[cache.kind, cache.rows, cache.places, count, bucket]
        return self._run(graph, cache, self._fed(**arrays, positions=positions, **ranges))[: len(ids)]

    def step(self, cache: KVCache, tokens: Sequence[int], active: Sequence[bool] | None = None) -> Any:
        """Appends one token to each row that is `active` (all where left out): logits (R, V) float32 of the next.

        The other rows' tokens are not read, their caches neither read nor written, and their logits NaN. Raises as
        `prefill` does.
        """
        import numpy as np

        # A model's weights have passed through the caches since the last step: a call here takes ten times as long
        # as in a loop of its own.
        ids = token_ids(tokens, self.vocab, self._own(cache).rows, axes=(1,)).tolist()
        on = [True] * cache.rows if active is None else [bool(a) for a in active]
        if not len(ids) == len(on) == cache.rows:
            raise ValueError(f"a step takes one token for each of {cache.rows} rows, not {len(ids)}")
        lengths, off = cache.lengths, [row for row, is_on in enumerate(on) if not is_on]
        begun = [len(source) for source in cache.sources] if self.encoder_context else lengths
        full = any(n >= cache.places and is_on for n, is_on in zip(lengths, on, strict=True))
        if full or len(off) == len(on) or any(n < 1 and is_on for n, is_on in zip(begun, on, strict=True)):
            raise ValueError(f"the context of {cache.places} tokens is full" if full else "no prompt was read")
        with owner.turn():
            slots = self._slots.get(cache.rows) or self._slots.setdefault(cache.rows, self._step_slots(cache.rows))
            arrays = slots.arrays
            arrays["tokens"][:, 0] = ids
            arrays["positions"][:, 0] = positions = [min(n, cache.places - 1) for n in lengths]
            self.positions.reach(max(positions) + 1)
            arrays["places"][:, 1], arrays["places"][:, 2] = lengths, on
            for name, mask in self._masks.items():
                arrays[name][:, 0, 0], arrays[name][:, 0, 1] = decoding_range(mask, lengths)
            if self.encoder_context:
                arrays[CROSS][:, 0, 1] = begun
            if off:
                for name in ("tokens", *self._masks, *([CROSS] if self.encoder_context else [])):
                    arrays[name][off] = 0
            out = self._run(self._steps[cache.kind, cache.rows, cache.places], cache, slots.tensors())
        for row, (token, is_on) in enumerate(zip(ids, on, strict=True)):
            if is_on:
                cache.read[row].append(token)
        if off:
            out[off] = np.nan
        return out

    def _step_slots(self, rows: int) -> Slots:
        """What a step of so many rows reads, and is written anew for each."""
        import numpy as np

        ranges = decoding_ranges(self._plan, [0] * rows)
        if self.encoder_context:
            ranges[CROSS] = cross_ranges([0] * rows, 1)
        places = np.zeros((rows, 3), np.int32)
        places[:, 0] = np.arange(rows)
        tokens, positions = np.zeros((2, rows, 1), np.int32)
        return Slots(self._backend.inputs, tokens=tokens, positions=positions, places=places, **ranges)

    def _own(self, cache: KVCache) -> KVCache:
        """Raises TypeError or ValueError for what is no cache of this model."""
        if not isinstance(cache, KVCache):
            raise TypeError(f"a KV cache is what `prefill` gives, not {type(cache).__name__}")
        if cache.model != self._key:
            raise ValueError("the KV cache belongs to a model of another shape")
        return cache

    def _run(self, jit: Any, cache: KVCache, inputs: Tensors) -> Any:
        return jit.array(self._weights, self.positions.tensors, cache.tensors, inputs)

    def _fed(self, **arrays: Any) -> Tensors:
        """What a graph that reads prompts is given beside the weights and the cache."""
        return {**self._feed(**arrays), **self._backend.inputs}

    # -- the graphs ----------------------------------------------------------------------------------------------
    def _encode_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors) -> Tensor:
        """Texts through the encoder; what the decoder's layers look at of them goes into rows of the cache."""
        ops, tensors = self._backend.ops(inputs, by_sequence=True), {**weights, **tables}
        states, written = self._model.encoded(ops, tensors, inputs), list[Tensor]()
        for layer, _ in walk.cross_layers(self._plan):
            k_BSKd, v_BSKd = self._model.crossed(ops, tensors, states, layer)
            kept = [Kept(cache[f"{CROSSED}{kind}{layer}"]) for kind in "kv"]
            stored = ops.store(kept[0], kept[1], k_BSKd.cat(v_BSKd, dim=2), 0, inputs["places"])
            written.extend(k.values for k in stored)
        done = states[:, 0].contiguous()
        Tensor.realize(done, *written)
        return done

    def _prefill_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors) -> Tensor:
        """Prompts from their beginning: they see themselves alone."""
        length = int(inputs["tokens"].shape[1])
        positions = Tensor.arange(length).reshape(1, length)
        if self._anew:  # padding would count as text
            positions = positions.minimum(inputs["last"].reshape(-1, 1))
        return self._logits(weights, tables, cache, inputs, positions, positions)

    def _extend_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors) -> Tensor:
        """Prompts that go on from what their rows have read."""
        return self._decode_step(weights, tables, cache, inputs)

    def _decode_step(self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors) -> Tensor:
        keys = Tensor.arange(int(cache["k0"].shape[1])).reshape(1, -1)
        return self._logits(weights, tables, cache, inputs, inputs["positions"], keys)

    def _logits(
        self, weights: Tensors, tables: Tensors, cache: Tensors, inputs: Tensors, queries: Tensor, keys: Tensor
    ) -> Tensor:
        """Logits (B, V) of what follows each row's last token, once its keys and values are stored."""
        ops, tensors = self._backend.ops(inputs, by_sequence=True), {**weights, **tables}
        written: list[Tensor] = []

        def store(layer: int, qkv_BTNd: Tensor, heads: int) -> tuple[Kept, Kept] | None:
            held = [Kept(cache[f"{kind}{layer}"], cache.get(f"{kind}{layer}{SCALES}")) for kind in "kv"]
            k, v = ops.store(held[0], held[1], qkv_BTNd, heads, inputs["places"])
            written.extend(t for t in (*k, *v) if t is not None)
            if "positions" not in inputs:
                return None
            if "last" not in inputs or int(k.values.shape[0]) == 1:  # a step, or one row: the batch's rows are these
                return k, v
            rows = inputs["places"][:, 0]
            return Kept(ops.taken(k, rows)), Kept(ops.taken(v, rows))

        def crossed(layer: int) -> tuple[Tensor, Tensor]:
            return cache[f"{CROSSED}k{layer}"], cache[f"{CROSSED}v{layer}"]

        kept = crossed if self.encoder_context else None
        context = AttentionContext(queries, keys, ranges_in(inputs), store, crossed=kept)
        hidden = self._model.hidden(ops, tensors, inputs, context, inputs.get("last"))
        logits = self._model.head(ops, tensors, hidden.contiguous()).reshape(int(hidden.shape[0]), -1).contiguous()
        Tensor.realize(logits, *written)
        return logits
