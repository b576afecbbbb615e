"""Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): the forward pass keeps what stands between the layers
alone, and the backward pass computes each layer's activations again, from its input.

A pass is cut into segments: embeddings, each layer, final norms. Each is realized as it is reached, so that a captured
step forgets what lies inside it, and its gradient is that of the same function of the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from tinygrad import Tensor

from llmspec.backends.plain.ops import Ops
from llmspec.model.weight_view import Weights


class Segment(NamedTuple):
    """A part of a forward pass, and what it was given."""

    function: Callable[..., Tensor]
    """f(w, *inputs) -> output, of weights that it reads by name."""
    weights: Weights
    inputs: tuple[Tensor, ...]
    output: Tensor
    read: tuple[str, ...]
    """Names of the trained weights that it reads."""
    sites: int
    """Sites of dropout before it, whose numbers the random bits hang on."""
    counted: Tensor | None
    """Tokens of its stack that are no padding."""


class Tape:
    """The segments of one pass. Holds none once gradients are taken, so that a captured step forgets them."""

    def __init__(self, ops: Ops, trained: Collection[str]) -> None:
        self._ops, self._trained, self._segments = ops, frozenset(trained), list[Segment]()

    def through(self, function: Callable[..., Tensor], weights: Weights, *inputs: Tensor) -> Tensor:
        """function(weights, *inputs), kept apart from what is around it."""
        ops, own, sites = self._ops, weights.fresh(), self._ops.sites
        output = function(own, *inputs).contiguous()
        Tensor.realize(output, *ops.losses.values(), *ops.metrics.values())
        weights.read.update(own.read)
        read = tuple(sorted(own.read & self._trained))
        self._segments.append(Segment(function, weights, inputs, output, read, sites, ops.counted))
        return output

    def gradients(
        self, whole: Tensor, beside: Sequence[Tensor], weights: Mapping[str, Tensor], names: Sequence[str]
    ) -> list[Tensor]:
        """The gradients of a loss () for the weights of those names, and the values `beside` it, all realized.

        The loss reads the last segment's output, what parts have added to it (`ops.losses`), and weights.
        """
        added, nodes = dict(self._ops.losses), whole.uop.toposort()
        late = [name for name in names if weights[name].uop in nodes]
        slope, *first = whole.gradient(self._segments[-1].output, *added.values(), *(weights[name] for name in late))
        Tensor.realize(*beside, slope, *first)
        slopes, rates = {id(self._segments[-1].output): slope}, dict(zip(added, first, strict=False))
        found = dict(zip(late, first[len(added) :], strict=True))
        while self._segments:
            segment = self._segments.pop()
            below = any(s.read for s in self._segments)
            if segment.read or below:
                self._back(segment, below, slopes, rates, found, weights)
        return [found[n] if n in found else (weights[n] * 0).contiguous().realize() for n in names]

    def _back(
        self,
        segment: Segment,
        below: bool,
        slopes: dict[int, Tensor],
        rates: Mapping[str, Tensor],
        found: dict[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> None:
        """Computes a segment again, and its gradients: added to those of its inputs (`slopes`), where something below
        it is trained, and of its weights (`found`)."""
        ops = self._ops
        ops.sites, ops.counted, ops.losses, ops.metrics = segment.sites, segment.counted, {}, {}
        output = segment.function(segment.weights.fresh(), *segment.inputs)
        inputs = segment.inputs if below else ()
        targets = (*inputs, *(weights[name] for name in segment.read))
        slope = slopes.pop(id(segment.output))
        if ops.losses:  # as one sum, so that gradients meet where they do in a pass that keeps everything
            added = (value * rates[name] for name, value in ops.losses.items())
            made = sum(added, (output * slope).sum()).gradient(*targets)
        else:
            made = output.gradient(*targets, gradient=slope)
        for one, gradient in zip(inputs, made, strict=False):
            slopes[id(one)] = slopes[id(one)] + gradient if id(one) in slopes else gradient
        for name, gradient in zip(segment.read, made[len(inputs) :], strict=True):
            found[name] = found[name] + gradient if name in found else gradient
        Tensor.realize(*slopes.values(), *(found[name] for name in segment.read))
        ops.losses, ops.metrics = {}, {}  # they would keep what the segment was computed with
