"""Weights that stay 16 bits a number, as they lie in files, and linear layers that read them.

Shape letters: B sequences, N rows, I inputs, O outputs.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
from tinygrad import Tensor, dtypes

from llmspec.backends import tinygrad_private as private
from llmspec.backends.cpu.arena import Arena
from llmspec.backends.cpu.native import call, no_gradient, shape_of
from llmspec.core.quantised import Quantised
from llmspec.core.weight_types import TYPES
from llmspec.parts.ops import HALVES, Linear

NUMBERS = {"f16": dtypes.float16, "bf16": dtypes.bfloat16}
"""What tinygrad calls the types of HALVES."""


def reads(layer: Linear) -> bool:
    """Whether a layer's weights are of 16 bits."""
    return layer.quantised is not None and layer.quantised.type in HALVES


def held(weight: Quantised, arena: Arena) -> Tensor:
    """A matrix (O, I) of f16 or bf16 in memory of an arena's, as it lies in its file."""
    made, data = arena.tensor(weight.shape, NUMBERS[weight.type]), np.ascontiguousarray(weight.whole())
    ctypes.memmove(private.address_of(private.buffer_of(made)), data.ctypes.data, data.nbytes)  # which may be read-only
    weight.let_go()
    return made


def linears(address: Tensor, x: Tensor, layers: Sequence[Linear], by_sequence: bool) -> Tensor:
    """x (B, …, I) by up to three weights (O, I) of 16 bits, plus biases -> (B, …, ΣO), side by side; no gradient.

    Bit for bit what `autograd.linears` gives for the same numbers in float32. Either all layers have a bias or none.
    """
    shape = shape_of(x)
    n, i = math.prod(shape[:-1]), shape[-1]
    found = [layer.quantised for layer in layers if layer.quantised is not None]
    if wrong := [layout for layout in found if layout.inputs != i]:
        raise ValueError(f"a layer of {wrong[0].inputs} inputs does not read rows of {i}")
    absent = [0] * (3 - len(found))
    wide = [layout.outputs for layout in found] + absent
    types = [TYPES[layout.type].ggml for layout in found] + absent
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]
    unused = x  # stands where no bias or layer is, and is not read
    three = [*weights, *[weights[0]] * len(absent), *biases, *[unused] * (3 - len(biases))]
    rows = (shape[0], n // shape[0]) if by_sequence else (0, n)
    numbers = (*rows, i, *wide, *types, int(bool(biases)))
    y = call("half_linear", (n * sum(wide),), (x, *three), numbers, address, no_gradient)[0]
    return y.reshape(*shape[:-1], sum(wide))
