"""Weights that stay quantised: packed for the C products once, and the operations that read them; those of 16 bits
(halves.py) are held beside them.

Shape letters: N rows, I inputs, O outputs, V rows of a table.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tinygrad import Tensor, dtypes

from llmspec.backends import tinygrad_private as private
from llmspec.backends.cpu import halves, native
from llmspec.backends.cpu.arena import Arena
from llmspec.backends.tensors import Settled, refill
from llmspec.core.quantised import Quantised, as_float32
from llmspec.core.weight_types import TYPES
from llmspec.parts.ops import HALVES, Linear, WeightLayout

PACKED = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"})
"""Types that quantised.h arranges without loss; matrices of HALVES stay as they are, those of others are float32."""


def hold(arrays: Mapping[str, Any], readable: frozenset[str]) -> tuple[Settled, dict[str, WeightLayout]]:
    """Realized tensors of numpy arrays and `Quantised` by name, and the layouts of those that stay quantised: the ones
    that are `readable` by linear layers and look-ups alone, of a type in PACKED or HALVES. Others become float32.

    Raises RunError where weights lie in a file that was cut since it was opened.
    """
    tensors, layouts = Settled(), dict[str, WeightLayout]()
    kept = {n for n, a in arrays.items() if n in readable and isinstance(a, Quantised) and _stays(a)}
    arena = Arena([packed_bytes(a) if n in kept else 4 * a.size for n, a in arrays.items()])
    for name, array in arrays.items():
        if name in kept:
            layouts[name] = layout_of(array)
            tensors[name] = halves.held(array, arena) if array.type in HALVES else packed(array, arena)
        else:
            tensors[name] = arena.tensor(array.shape, dtypes.float32)
            refill(tensors[name], as_float32(array))
    return tensors, layouts


def _stays(weight: Quantised) -> bool:
    return weight.ndim in (2, 3) and (weight.type in PACKED or weight.type in HALVES)


def packed_bytes(weight: Quantised) -> int:
    """Bytes of a matrix, or of a stack of them, as the C products read it."""
    if weight.type in HALVES:
        return weight.nbytes
    count = native.library().packed_bytes
    count.restype = ctypes.c_int64
    found: int = count(*_words(*weight.shape[-2:], TYPES[weight.type].ggml))
    return found * math.prod(weight.shape[:-2])


def packed(weight: Quantised, arena: Arena | None = None) -> Tensor:
    """A matrix (O, I), or a stack (E, O, I), as the C products read it: int32 words, without loss, in memory of an
    arena's."""
    size = packed_bytes(weight)
    made = (arena or Arena([size])).tensor((size // 4,), dtypes.int32)
    data, count = np.ascontiguousarray(weight.whole()), math.prod(weight.shape[:-2])
    words = _words(*weight.shape[-2:], TYPES[weight.type].ggml)
    for j in range(count):  # each by itself: the groups of rows of one hold none of the next
        at = ctypes.c_void_p(data.ctypes.data + j * data.nbytes // count)
        native.library().pack_quantised(_address(made, j * size // count), at, *words)
    weight.let_go()
    return made


def unpacked(weight: Tensor, layout: WeightLayout) -> Any:
    """The numbers of what `hold` kept, a numpy array (O, I) or (E, O, I) float32."""
    made, ids = np.empty(layout.shape, np.float32), np.arange(layout.outputs, dtype=np.int32)
    words = _words(layout.outputs, layout.inputs, layout.outputs, TYPES[layout.type].ggml)
    for j, matrix in enumerate(made.reshape(-1, layout.outputs, layout.inputs)):
        at = _address(weight, j * weight.nbytes() // max(1, layout.experts))
        native.library().quantised_rows(_pointer(matrix), at, _pointer(ids), *words)
    return made


def layout_of(weight: Quantised) -> WeightLayout:
    """The layout of a matrix (O, I) or of a stack (E, O, I)."""
    return WeightLayout(weight.type, *weight.shape[-2:], *weight.shape[:-2])


def _words(*numbers: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(n) for n in numbers]


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _address(tensor: Tensor, byte: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(private.address_of(private.buffer_of(tensor)) + byte)


def linears(address: Tensor, x: Tensor, layers: Sequence[Linear]) -> Tensor:
    """x (…, I) by up to three packed weights (O, I), plus biases -> (…, ΣO), side by side; no gradient.

    Each row gets bit for bit what it gets alone. Either all layers have a bias or none.
    """
    shape = native.shape_of(x)
    n, i = math.prod(shape[:-1]), shape[-1]
    found = [layer.quantised for layer in layers if layer.quantised is not None]
    if wrong := [layout for layout in found if layout.inputs != i]:
        raise ValueError(f"a layer of {wrong[0].inputs} inputs does not read rows of {i}")
    wide = [layout.outputs for layout in found] + [0] * (3 - len(found))
    types = [TYPES[layout.type].ggml for layout in found] + [0] * (3 - len(found))
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]
    unused = x  # stands where no bias or layer is, and is not read
    three = [*weights, *[weights[0]] * (3 - len(weights)), *biases, *[unused] * (3 - len(biases))]
    numbers = (n, i, *wide, *types, int(bool(biases)))
    y = native.call("quantised_linear", (n * sum(wide),), (x, *three), numbers, address, native.no_gradient)[0]
    return y.reshape(*shape[:-1], sum(wide))


def alike(layers: Sequence[Linear]) -> Iterator[list[Linear]]:
    """Layers in runs of such as one call does: all packed, or of 16 or 32 bits; all frozen or none; all with a bias or
    none."""

    def sort(layer: Linear) -> tuple[bool, bool, bool, bool]:
        plain = layer.quantised is None and not layer.frozen
        return plain, layer.frozen, halves.reads(layer) and not layer.frozen, layer.bias is None

    for _, run in itertools.groupby(layers, sort):
        yield list(run)


def rows(address: Tensor, weight: Tensor, layout: WeightLayout, ids: Tensor) -> Tensor:
    """Rows of a table (V, I) that `hold` kept at ids (…) -> (…, I); no gradient. Others than 0 … V-1 end the step that
    reads them."""
    n, (v, i) = math.prod(native.shape_of(ids)), layout.shape
    numbers = (n, i, v, TYPES[layout.type].ggml)
    found = native.call(
        "quantised_rows", (n * i,), (weight, ids.cast(dtypes.int32)), numbers, address, native.no_gradient
    )[0]
    return found.reshape(*ids.shape, i)
