"""Which operations a device runs: plain tinygrad everywhere, calls of C on the CPU."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinygrad import Device, Tensor, dtypes

from llmspec.backends import owner, sharing
from llmspec.backends.cpu import autograd, native
from llmspec.backends.cpu.captured_step import CapturedStep, address
from llmspec.backends.plain.mixed_precision import MixedPrecisionOps
from llmspec.backends.plain.ops import NEWTON_SCHULZ, Ops
from llmspec.parts.ops import Scores


class CPUOps(Ops):
    """Everything hot as calls of C; dropout and what optimizers do beside Adam and Muon stay plain."""

    def __init__(self, address: Tensor, key: Tensor | None, dropout: float) -> None:
        super().__init__(key, dropout)
        self._at = address

    def contiguous_barrier(self, x: Tensor) -> Tensor:
        return x if native.made(x) else super().contiguous_barrier(x)  # what a call wrote would only be copied

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        # Dropout draws its numbers in the kernel that adds.
        return super().residual(x, y) if self.drops else autograd.add(self._at, x, y)

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        return autograd.matmul(self._at, a, b, transpose_a, transpose_b)

    def linears(self, x: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        return autograd.linears(self._at, x, layers)

    def embedding(self, weight: Tensor, ids: Tensor) -> Tensor:
        return autograd.embedding(self._at, weight, ids)

    def rotate(self, x_BTHd: Tensor, heads: int, cos: Tensor, sin: Tensor, p_BT: Tensor) -> Tensor:
        return autograd.rotate(self._at, x_BTHd, heads, cos, sin, p_BT)

    def self_attention(self, qkv_BTNd: Tensor, heads: int, ranges: Tensor, scores: Scores) -> Tensor:
        return autograd.self_attention(self._at, qkv_BTNd, heads, ranges, scores)

    def attention(self, q_BTHd: Tensor, k_BSKd: Tensor, v_BSKd: Tensor, ranges: Tensor, scores: Scores) -> Tensor:
        return autograd.attention(self._at, q_BTHd, k_BSKd, v_BSKd, ranges, scores)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        return autograd.layer_norm(self._at, x, weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return autograd.rms_norm(self._at, x, weight, eps)

    def gelu(self, x: Tensor) -> Tensor:
        return autograd.activation(self._at, x, autograd.GELU)

    def silu(self, x: Tensor) -> Tensor:
        return autograd.activation(self._at, x, autograd.SILU)

    def gated(self, activation: str, both: Tensor) -> Tensor:
        kinds = {"silu": autograd.SILU, "gelu": autograd.GELU}
        if activation not in kinds:
            return super().gated(activation, both)
        return autograd.gated(self._at, both, kinds[activation])

    def linear_cross_entropy(
        self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        return autograd.linear_cross_entropy(self._at, hidden_ND, weight_VD, targets_N, label_smoothing)

    def square_sum(self, x: Tensor) -> Tensor:
        return autograd.square_sum(self._at, x)

    def adam(
        self,
        w: Tensor,
        m: Tensor,
        v: Tensor,
        g: Tensor,
        scale: Tensor,
        scalars: Tensor,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        l2: float,
        decay: float,
    ) -> None:
        self.written += autograd.adam(self._at, w, m, v, g, scale, scalars, beta1, beta2, eps, l2, decay)

    def muon(
        self,
        w: Tensor,
        m: Tensor,
        g: Tensor,
        scale: Tensor,
        scalars: Tensor,
        *,
        momentum: float,
        nesterov: bool,
        decay: float,
        iterations: int,
    ) -> None:
        self.written += autograd.muon(
            self._at, w, m, g, scale, scalars, momentum, nesterov, decay, iterations, NEWTON_SCHULZ
        )


@dataclass(frozen=True)
class Backend:
    """Makes the operations of a device inside a jitted function, and names what that function has to receive."""

    name: str
    inputs: dict[str, Tensor] = field(default_factory=dict)
    precision: str = "float32"
    """What the operands of products are rounded to."""

    def jit(self, function: Callable[..., Any], key: str = "") -> Any:
        """A step (dicts of tensors, and bound variables, in; tensors out) that is captured on its first call.

        With a `key`, which names all that shapes the graph beside the arguments, a later process finds it captured.
        """
        return CapturedStep(function, bool(self.inputs), key)

    def ops(self, inputs: dict[str, Tensor], key: Tensor | None = None, dropout: float = 0.0) -> Ops:
        """Operations that read the functions' addresses from `inputs`, which the jitted function was called with."""
        if self.inputs:
            return CPUOps(inputs["native"], key, dropout)
        return Ops(key, dropout) if self.precision == "float32" else MixedPrecisionOps(self.precision, key, dropout)


@functools.cache
def backend(device: str, plain: bool = False, precision: str = "float32") -> Backend:
    """The backend of a device. Raises ToolchainError on a CPU without a compiler.

    `precision` is a Plan's, which has no other than float32 for a CPU's own backend.
    """
    with owner.turn():
        sharing.share()
        if plain or not device.startswith("CPU"):
            return Backend("plain", precision=precision)
        return Backend(native.products(), {"native": native.handle()})


class Graphs:
    """Captured steps by their shapes; of many the latest stay, since each keeps memory of its own."""

    MOST = 8

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._held = make, dict[tuple[int, ...], Any]()

    def __getitem__(self, shape: tuple[int, ...]) -> Any:
        """Within a turn of `owner`."""
        found = self._held.pop(shape, None) or self._make()
        self._held[shape] = found
        while len(self._held) > self.MOST:
            del self._held[next(iter(self._held))]
        return found


class StaticInputs:
    """The changing inputs of a step in tensors made once: later arrays are copied in, which needs no graph."""

    def __init__(self) -> None:
        self._made: dict[Any, tuple[dict[str, Tensor], dict[str, Any]]] = {}

    def __call__(self, **arrays: Any) -> dict[str, Tensor]:
        """Tensors with these arrays' numbers; the tensors of the last call with the same names and shapes."""
        key = tuple((name, array.shape, array.dtype) for name, array in arrays.items())
        with owner.turn():
            if key not in self._made:
                tensors = tensors_from_numpy(**arrays)
                self._made[key] = tensors, {n: native.memory(t) for n, t in tensors.items()}
                return tensors
            tensors, places = self._made[key]
            for name, place in places.items():
                if place is None:
                    native.refill(tensors[name], arrays[name])
                else:
                    place[...] = arrays[name]
        return tensors


def tensors_from_numpy(**arrays: Any) -> dict[str, Tensor]:
    """Fresh tensors of numpy arrays, realized: what a jitted function takes."""
    return {name: native.tensor(array) for name, array in arrays.items()}


def host(tensor: Tensor) -> Any:
    """A realized float32 tensor's numbers as a numpy array of its own.

    Straight from memory on a CPU, where `Tensor.numpy` goes through a graph and takes 1.5 ms for a single number.
    """
    import numpy as np

    with owner.turn():
        count = math.prod(int(n) for n in tensor.shape)
        whole = tensor.uop.is_realized and getattr(tensor.uop.base.buffer, "size", 0) == count  # no part of another
        if tensor.device != "CPU" or tensor.dtype != dtypes.float32 or not whole:
            return tensor.numpy().copy()
        Device["CPU"].synchronize()
        held = (ctypes.c_float * count).from_address(address(tensor))
        return np.ctypeslib.as_array(held).reshape(tensor.shape).copy()
