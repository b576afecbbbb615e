"""Products with weights that training leaves as they are: gradients for their inputs alone.

Weights that stay quantised are read as the float32 numbers that they stand for, a few rows at a time in one place.

Shape letters: N rows, I inputs, O outputs, D width, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from tinygrad import Tensor, UOp, dtypes

from llmspec.backends.cpu.native import Gradient, call, operands, shape_of
from llmspec.core.weight_types import TYPES
from llmspec.parts.ops import Linear

PLAIN = 0
"""The type of weights of float32, as ggml numbers it and frozen.c reads it."""


def linears(address: Tensor, x: Tensor, layers: Sequence[Linear]) -> Tensor:
    """x (…, I) by up to three frozen weights (O, I), plus biases -> (…, ΣO), side by side.

    Either all layers have a bias or none. Biases have a gradient, weights have none.
    """
    shape = shape_of(x)
    n, i = math.prod(shape[:-1]), shape[-1]
    wide = tuple(outputs(layer) for layer in layers) + (0,) * (3 - len(layers))
    types = tuple(map(type_of, layers)) + (PLAIN,) * (3 - len(layers))
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]
    unused = x  # stands where no bias or layer is, and is not read
    three = [*weights, *[weights[0]] * (3 - len(weights)), *biases, *[unused] * (3 - len(biases))]
    sizes = (n, i, *wide, *types)
    numbers = (*sizes, int(bool(biases)))
    y = call("frozen_linear", (n * sum(wide),), (x, *three), numbers, address, _gradient(bool(biases), *sizes))[0]
    return y.reshape(*shape[:-1], sum(wide))


def outputs(layer: Linear) -> int:
    """How many outputs a layer has."""
    return shape_of(layer.weight)[0] if layer.quantised is None else layer.quantised.outputs


def type_of(layer: Linear) -> int:
    """The type of a layer's weights, as ggml numbers it."""
    return PLAIN if layer.quantised is None else TYPES[layer.quantised.type].ggml


@functools.cache
def _gradient(biased: bool, n: int, i: int, *wide_types: int) -> Gradient:
    wide = wide_types[:3]

    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (_, *weights, address) = operands(node, 1)
        to_x = call("frozen_linear_backward", (n * i,), (Tensor(g), *weights[:3]), (n, i, *wide_types), address)[0]
        to_b = Tensor(g).reshape(n, sum(wide)).sum(0) if biased else None
        starts = [sum(wide[:j]) for j in range(3)]
        more = [to_b[s : s + o].uop if to_b is not None and o else None for s, o in zip(starts, wide, strict=True)]
        return None, to_x.uop, None, None, None, *more, None

    return gradient


def linear_cross_entropy(
    address: Tensor,
    hidden_ND: Tensor,
    layer: Linear,
    targets_N: Tensor,
    label_smoothing: float,
    softcap: float | None,
    z_loss: float,
) -> Tensor:
    """Losses (N,) in nats of targets in 0 … V-1, as autograd.linear_cross_entropy, under a frozen layer's logits."""
    (n, d), v, kind = shape_of(hidden_ND), outputs(layer), type_of(layer)
    inputs = (hidden_ND, layer.weight, targets_N.cast(dtypes.int32))
    numbers = (n, d, v, kind, float(label_smoothing), float(softcap or 0), float(z_loss))
    return call("frozen_cross_entropy", (n, n * v), inputs, numbers, address, _entropy_gradient(n, d, v, kind))[0]


@functools.cache
def _entropy_gradient(n: int, d: int, v: int, kind: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (_, slopes), (_, weight, _, address) = operands(node, 2)
        inputs = (Tensor(g), slopes, weight)
        to_hidden = call("frozen_cross_entropy_backward", (n * d,), inputs, (n, d, v, kind), address)[0]
        return None, None, to_hidden.uop, None, None, None

    return gradient
