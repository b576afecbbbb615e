"""Which operations a device runs: plain tinygrad everywhere, BLAS calls on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tinygrad import Tensor

from llmspec.kernels import blas, native
from llmspec.kernels.replay import Replayed
from llmspec.model.ops import Ops


class CPUOps(Ops):
    """Matrix products, embedding rows, softmax, RMSNorm, gated SiLU and loss as calls of C; the rest plain."""

    def __init__(self, handles: dict[str, Tensor], int_bits: int, key: Tensor | None, dropout: float) -> None:
        super().__init__(key, dropout)
        self._blas, self._native, self._bits = handles["blas"], handles["native"], int_bits

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        return blas.matmul(self._blas, a, b, transpose_a=transpose_a, transpose_b=transpose_b, int_bits=self._bits)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = blas.linear(self._blas, x, weight, int_bits=self._bits)
        return y if bias is None else y + bias

    def embedding(self, weight: Tensor, ids: Tensor) -> Tensor:
        return native.embedding(self._native, weight, ids)

    def softmax(self, scores: Tensor, mask: Tensor) -> Tensor:
        return native.softmax(self._native, scores, mask)

    def gated(self, activation: str, gate: Tensor, up: Tensor) -> Tensor:
        if activation != "silu":
            return super().gated(activation, gate, up)
        return native.silu_gated(self._native, gate, up)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return native.rms_norm(self._native, x, weight, eps)

    def cross_entropy(self, logits_NV: Tensor, targets_N: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return native.cross_entropy(self._native, logits_NV, targets_N, label_smoothing)


@dataclass(frozen=True)
class Lowering:
    """Makes the operations of a device inside a jitted function, and names what that function has to receive."""

    name: str
    inputs: dict[str, Tensor] = field(default_factory=dict)
    int_bits: int = 64

    def jit(self, function: Callable[..., Any]) -> Any:
        """A step (dicts of tensors, and bound variables, in; tensors out) that is captured on its first call."""
        return Replayed(function, tables=bool(self.inputs))

    def ops(self, inputs: dict[str, Tensor], key: Tensor | None = None, dropout: float = 0.0) -> Ops:
        """Operations that read the handles from `inputs`, the ones the jitted function was called with."""
        return CPUOps(inputs, self.int_bits, key, dropout) if self.inputs else Ops(key, dropout)


@functools.cache
def lowering(device: str, plain: bool = False) -> Lowering:
    """The lowering of a device. On a CPU without a usable BLAS it is the plain one, and its name says so."""
    if plain or not device.startswith("CPU"):
        return Lowering("plain")
    found = blas.Blas.find()
    if found is None:
        return Lowering(f"plain ({blas.Blas.why_not()})")
    return Lowering(found.name, {"blas": found.handle(), "native": native.handle()}, found.int_bits)


class Feed:
    """The changing inputs of a step in tensors made once: later arrays are copied in, which needs no graph."""

    def __init__(self) -> None:
        self._made: dict[tuple[tuple[str, tuple[int, ...], str], ...], dict[str, Tensor]] = {}

    def __call__(self, **arrays: Any) -> dict[str, Tensor]:
        """Tensors with these arrays' numbers; the tensors of the last call with the same names and shapes."""
        import numpy as np

        key = tuple((name, array.shape, str(array.dtype)) for name, array in arrays.items())
        if key not in self._made:
            self._made[key] = numpy_inputs(**arrays)
            return self._made[key]
        for name, tensor in self._made[key].items():
            buffer: Any = tensor.uop.base.buffer
            content: Any = np.ascontiguousarray(arrays[name])
            buffer.allocator._copyin(buffer.ensure_allocated()._buf, memoryview(content).cast("B"))
        return self._made[key]


def numpy_inputs(**arrays: Any) -> dict[str, Tensor]:
    """Fresh tensors of numpy arrays, realized: what a jitted function takes."""
    tensors = {name: Tensor(array) for name, array in arrays.items()}
    if tensors:  # positions without tables and optimizers without state have none
        Tensor.realize(*tensors.values())
    return tensors
