"""Where a step's numbers stop being finite: the first layer of the forward pass, or the tensor whose gradient began it.

Computed once, without a captured step, on weights from before that step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad import Tensor

from llmspec.backends.tensors import to_numpy
from llmspec.compiler import walk
from llmspec.compiler.plan import StackPlan
from llmspec.model.steps import Steps
from llmspec.model.transformer import Block, Stack


class _Seen:
    """A block whose outputs are kept."""

    def __init__(self, block: Block, name: str, kept: dict[str, Tensor]) -> None:
        self._block, self._name, self._kept = block, name, kept
        self.plan, self.cross = block.plan, block.cross

    def forward(self, *given: Any) -> Tensor:
        self._kept[self._name] = found = self._block.forward(*given)
        return found


class _Watched(Stack):
    """A stack that keeps what each of its layers gives."""

    def __init__(self, inner: Stack, kept: dict[str, Tensor]) -> None:
        vars(self).update(vars(inner))
        self.plan: StackPlan = inner.plan
        self._kept = kept

    def block(self, layer: int) -> Any:
        return _Seen(super().block(layer), walk.layer_path(self.plan, layer), self._kept)


def origin(
    steps: Steps, weights: Mapping[str, Tensor], tables: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> str:
    """Where numbers that are not finite begin in a pass, in words; '' where all of them are finite: sums, gradients
    and what the layers give. `weights` are those that a pass of training reads."""
    if wrong := next((name for name, w in weights.items() if _odd(w)), ""):
        return f"the weights of {wrong} had {_odd(weights[wrong]):,} numbers that are not finite before it"
    kept: dict[str, Tensor] = {}
    steps.watch(lambda stack: _Watched(stack, kept))
    sums, gradients = steps.gradients(dict(weights), dict(tables), dict(inputs))
    for name, found in kept.items():
        if count := _odd(found):
            return f"it began in {name}: {count:,} of the {_size(found):,} numbers that this layer gives are not finite"
    for name, total in zip(steps.sums, sums, strict=True):
        if _odd(total):
            return f"every layer gives finite numbers: it began in the head or in the {name}"
    # What is not finite spreads from the loss down: the layer nearest to it is where it began.
    for name, gradient in reversed(list(zip(steps.trained, gradients, strict=True))):
        if count := _odd(gradient):
            return f"the loss is finite; it began in the gradient of {name}: {count:,} of {_size(gradient):,} numbers"
    return ""


def _odd(tensor: Tensor) -> int:
    import numpy as np

    return int(np.count_nonzero(~np.isfinite(to_numpy(tensor))))


def _size(tensor: Tensor) -> int:
    return int(to_numpy(tensor).size)
