"""A backend: the operations of a device inside a jitted function. Here plain tinygrad's, which run everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tinygrad import Device, Tensor

from llmspec.backends import owner
from llmspec.backends import tinygrad_private as private
from llmspec.backends.plain.mixed_precision import MixedPrecisionOps
from llmspec.backends.plain.ops import Ops
from llmspec.backends.tensors import Settled, tensors_from_numpy, to_numpy
from llmspec.core.quantised import Quantised, as_float32
from llmspec.parts.dropout import Dropout
from llmspec.parts.ops import HALF, WeightLayout


class JitStep:
    """A function of tensors that TinyJit captures on its first call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._jit = private.jit(function)

    captured_bytes = 0
    """Bytes of its memory that tinygrad does not count."""

    def __call__(self, *args: Any) -> Any:
        """One thread at a time. What is returned is overwritten by the next call."""
        with owner.turn():
            out = self._jit(*args)
            first = out[0] if isinstance(out, tuple | list) and out else out
            if isinstance(first, Tensor) and first.device == "CPU":
                Device["CPU"].synchronize()
            return out

    def array(self, *args: Any) -> Any:
        """The call of a step that returns one float32 tensor: its numbers as a numpy array of their own."""
        with owner.turn():
            return to_numpy(self(*args))


@dataclass(frozen=True)
class Backend:
    """Makes the operations of a device inside a jitted function, and names what that function has to receive."""

    name: str
    inputs: dict[str, Tensor] = field(default_factory=dict)
    precision: str = "float32"
    """What the operands of products are rounded to."""
    halves: bool = False
    """Whether quantised matrices are dequantised into float16, half of what they would take in float32; where it is
    not, plain operations are the float32 reference of other backends."""
    continues: bool = True
    """Whether a prompt read in parts gives what it gives at once, as exactly as a row gives what it gives alone."""

    def hold(
        self, arrays: Mapping[str, Any], readable: frozenset[str] = frozenset()
    ) -> tuple[Settled, dict[str, WeightLayout]]:
        """Realized tensors of weights by name, numpy arrays or `Quantised`; and, by name, the layouts of those that
        stay quantised in memory. Here they become float32; where the backend `halves` them, float16, with HALF as
        the type of their layout, unless a number is too large for that, or is one of bf16 that would be rounded.

        `readable` names the matrices that linear layers and look-ups alone read.
        """
        plain, layouts = {}, dict[str, WeightLayout]()
        for name, array in arrays.items():
            plain[name] = as_float32(array)
            if not (self.halves and isinstance(array, Quantised) and name in readable and len(array.shape) == 2):
                continue
            with np.errstate(over="ignore"):
                half = plain[name].astype(np.float16)
            if np.isfinite(half).all() and (array.type != "bf16" or bool((half == plain[name]).all())):
                plain[name], layouts[name] = half, WeightLayout(HALF, *array.shape)
        return Settled(tensors_from_numpy(**plain)), layouts

    def zeros(self, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> Settled:
        """Realized tensors of zeros by name, of these shapes, of at least one axis, and numpy's types."""
        return Settled(tensors_from_numpy(**{name: np.zeros(*wanted) for name, wanted in shapes.items()}))

    def numbers(self, weight: Tensor, layout: WeightLayout | None) -> Any:
        """A copy of a weight that `hold` made: a numpy array, float32."""
        array = to_numpy(weight)
        return array if layout is None else array.astype(np.float32)

    def jit(self, function: Callable[..., Any], key: str = "") -> Any:
        """A step (dicts of tensors, and bound variables, in; tensors out) that is captured on its first call.

        `key` names all that shapes the graph beside the arguments, for backends that keep captured steps.
        """
        return JitStep(function)

    def ops(
        self,
        inputs: dict[str, Tensor],
        key: Tensor | None = None,
        dropout: float | Dropout = 0.0,
        by_sequence: bool = False,
    ) -> Ops:
        """Operations within a function that was called with `inputs`, which hold those that this backend names.

        With `by_sequence`, for decoding, a sequence of a batch gets what it gets alone: bit for bit where a backend can
        say in which order sums are made, which plain tinygrad cannot.
        """
        return Ops(key, dropout) if self.precision == "float32" else MixedPrecisionOps(self.precision, key, dropout)
