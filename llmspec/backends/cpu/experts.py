"""Mixtures of experts in C, with their gradients: tokens sorted by expert, and one product for each expert.

Shape letters: B batch, T tokens, N = B · T, k experts of a token, E experts, R = N · k rows, I inputs, O outputs,
D width.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

from tinygrad import Tensor, UOp

from llmspec.backends.cpu import halves
from llmspec.backends.cpu.native import Gradient, call, integers, no_gradient, operands, shape_of
from llmspec.core.weight_types import TYPES
from llmspec.parts.ops import Linear, Routing, RoutingRule, matrices


def router(
    address: Tensor, logits_BTE: Tensor, correction_E: Tensor | None, rule: RoutingRule
) -> tuple[Routing, Tensor]:
    """`Ops.router`, and the expert of each choice (N · k,); the groups are the first row of each expert, and behind the
    last one's."""
    *tokens, e = shape_of(logits_BTE)
    n = math.prod(tokens)
    top_k, scale = rule.top_k, float(rule.scale)
    choices = n * top_k
    written = [integers(size, address) for size in (choices, e, choices, choices, e + 1)]
    outputs: tuple[int | Tensor, ...] = (n * (top_k + e), *written)
    inputs = (logits_BTE, logits_BTE if correction_E is None else correction_E)
    sizes = (n, e, top_k, int(rule.sigmoid), int(rule.normalise))
    numbers = (*sizes, int(correction_E is not None), scale)
    made = call("router", outputs, inputs, numbers, address, _router_gradient(*sizes, scale))
    both, counts, places, held, starts = made[0].reshape(n, top_k + e), *made[2:]
    return Routing(both[:, :top_k], both[:, top_k:], counts, places, held, starts, tokens[-1] == 1), made[1]


@functools.cache
def _router_gradient(n: int, e: int, k: int, sigmoid: int, normalise: int, scale: float) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        (out, chosen, *_), (*_, address) = operands(node, 6)
        numbers = (n, e, k, sigmoid, normalise, scale)
        to_logits = call("router_backward", (n * e,), (Tensor(g), out, chosen), numbers, address)[0]
        return (*[None] * 6, to_logits.uop, None, None)

    return gradient


def dispatch(address: Tensor, x_BTD: Tensor, routing: Routing) -> Tensor:
    """Each token's vector once for each of its experts, in the order of the experts: (R, D)."""
    (n, k), d = shape_of(routing.weights), shape_of(x_BTD)[-1]
    inputs = (x_BTD, routing.choices, routing.places)
    made = call("dispatch", (n * k * d,), inputs, (n, k, d), address, _dispatch_gradient(n, k, d), DISPATCHED)
    return made[0].reshape(n * k, d)


DISPATCHED = ((0, 0), (1, 0), (2, 0))
"""The C function does not read the places, which its gradient does."""


@functools.cache
def _dispatch_gradient(n: int, k: int, d: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (_, _, places, address) = operands(node, 1)
        to_x = call("dispatch_backward", (n * d,), (Tensor(g), places), (n, k, d), address)[0]
        return None, to_x.uop, None, None, None

    return gradient


def combine(address: Tensor, x: Tensor, routing: Routing) -> Tensor:
    """The sum of what a token's experts gave, each times its weight: (R, D) -> (N, D)."""
    (n, k), d = shape_of(routing.weights), shape_of(x)[-1]
    inputs = (x, routing.weights, routing.places, routing.choices)
    made = call("combine", (n * d,), inputs, (n, k, d), address, _combine_gradient(n, k, d), COMBINED)
    return made[0].reshape(n, d)


COMBINED = ((0, 0), (1, 0), (2, 0), (3, 0))


@functools.cache
def _combine_gradient(n: int, k: int, d: int) -> Gradient:
    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (x, weights, places, choices, address) = operands(node, 1)
        inputs = (Tensor(g), x, weights, places, choices)
        to_x, to_weights = call("combine_backward", (n * k * d, n * k), inputs, (n, k, d), address)
        return None, to_x.uop, to_weights.uop, None, None, None

    return gradient


def grouped_linears(
    address: Tensor,
    x: Tensor,
    routing: Routing,
    layers: Sequence[Linear],
    by_sequence: bool,
) -> Tensor:
    """x (R, I) by up to three stacks of weights (E, O, I), plus biases (E, O) -> (R, ΣO), side by side.

    With `by_sequence` a row gets bit for bit what it gets beside no other, and there is no gradient; stacks that stay
    as they lie in a file have none either.
    """
    made = [
        (_held if kind else _floats)(address, x, routing, list(run), by_sequence)
        for kind, run in itertools.groupby(layers, _kind)
    ]
    return made[0] if len(made) == 1 else Tensor.cat(*made, dim=-1)


def _kind(layer: Linear) -> int:
    """0 for a stack of float32, 1 of packed matrices, 2 of numbers of 16 bits."""
    return 0 if layer.quantised is None else 2 if halves.reads(layer) else 1


def _held(address: Tensor, x: Tensor, routing: Routing, layers: Sequence[Linear], by_sequence: bool) -> Tensor:
    (r, i), absent = shape_of(x), 3 - len(layers)
    layouts = [layer.quantised for layer in layers if layer.quantised is not None]
    wide = [layout.outputs for layout in layouts] + [0] * absent
    types = [TYPES[layout.type].ggml for layout in layouts] + [0] * absent
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]
    three = [*weights, *[weights[0]] * absent, *biases, *[x] * (3 - len(biases))]
    numbers = (r, layouts[0].experts, i, *wide, *types, int(bool(biases)), int(by_sequence), int(routing.single))
    inputs = (x, *three, routing.groups)
    return call("grouped_held", (r * sum(wide),), inputs, numbers, address, no_gradient)[0].reshape(r, sum(wide))


def _floats(address: Tensor, x: Tensor, routing: Routing, layers: Sequence[Linear], by_sequence: bool) -> Tensor:
    (r, i), e = shape_of(x), shape_of(layers[0].weight)[0]
    weights, biases = matrices(layers), [layer.bias for layer in layers if layer.bias is not None]
    wide = tuple(shape_of(w)[1] for w in weights) + (0,) * (3 - len(layers))
    sizes = (r, e, i, *wide, int(bool(biases)))
    three = [[*own, *[own[0]] * (3 - len(own))] for own in (weights, biases or weights)]
    inputs = (x, *three[0], *three[1], routing.groups)
    numbers = (*sizes, int(by_sequence), int(routing.single))
    gradient = None if by_sequence else _grouped_gradient(*sizes)
    return call("grouped_linear", (r * sum(wide),), inputs, numbers, address, gradient)[0].reshape(r, sum(wide))


@functools.cache
def _grouped_gradient(r: int, e: int, i: int, *wide_biased: int) -> Gradient:
    *wide, biased = wide_biased

    def gradient(g: UOp, node: UOp) -> tuple[UOp | None, ...]:
        _, (x, *weights, starts, address) = operands(node, 1)
        counts = (r * i, *(max(1, e * o * i) for o in wide), e * sum(wide) if biased else 1)
        inputs = (Tensor(g), x, *weights[:3], starts)
        to_x, *to_w, to_b = call("grouped_linear_backward", counts, inputs, (r, e, i, *wide_biased), address)
        ends = [sum(wide[: j + 1]) for j in range(3)]
        given = [one.uop if o else None for one, o in zip(to_w, wide, strict=True)]
        own = [
            to_b.reshape(e, -1)[:, end - o : end] if o and biased else None for end, o in zip(ends, wide, strict=True)
        ]
        more = [None if one is None else one.reshape(-1).uop for one in own]
        return None, to_x.uop, *given, *more, None, None

    return gradient
