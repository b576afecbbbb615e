"""A backend: the operations of a device inside a jitted function. Here plain tinygrad's, which run everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tinygrad import Device, Tensor

from llmspec.backends import owner
from llmspec.backends import tinygrad_private as private
from llmspec.backends.plain.mixed_precision import MixedPrecisionOps
from llmspec.backends.plain.ops import Ops
from llmspec.backends.tensors import tensors_from_numpy, to_numpy
from llmspec.core.quantised import Quantised
from llmspec.parts.dropout import Dropout
from llmspec.parts.ops import WeightLayout


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


@dataclass(frozen=True)
class Backend:
    """Makes the operations of a device inside a jitted function, and names what that function has to receive."""

    name: str
    inputs: dict[str, Tensor] = field(default_factory=dict)
    precision: str = "float32"
    """What the operands of products are rounded to."""
    continues: bool = True
    """Whether a prompt read in parts gives what it gives at once, as exactly as a row gives what it gives alone."""

    def hold(
        self, arrays: Mapping[str, Any], readable: frozenset[str] = frozenset()
    ) -> tuple[dict[str, Tensor], dict[str, WeightLayout]]:
        """Realized tensors of weights by name, numpy arrays or `Quantised`; and, by name, the layouts of those that
        stay quantised in memory, of which there are none here: they become float32.

        `readable` names the matrices that linear layers and look-ups alone read.
        """
        plain = {n: a.dequantised() if isinstance(a, Quantised) else a for n, a in arrays.items()}
        return tensors_from_numpy(**plain), {}

    def numbers(self, weight: Tensor, layout: WeightLayout | None) -> Any:
        """A copy of a weight that `hold` made: a numpy array, float32."""
        return to_numpy(weight)

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
