"""Tensors from numpy arrays and back, and the memory that they lie in, without a graph where none is needed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tinygrad import Device, Tensor, dtypes

from llmspec.backends import owner
from llmspec.backends import tinygrad_private as private


def tensor(array: Any, device: str | None = None) -> Tensor:
    """A realized tensor with a numpy array's numbers, copied without a graph, which would take 10 ms and more."""
    with owner.turn():
        made = Tensor.empty(*array.shape, dtype=getattr(dtypes, array.dtype.name), device=device)
        if array.size:
            refill(made, array)
        return made


def tensors_from_numpy(**arrays: Any) -> dict[str, Tensor]:
    """Fresh tensors of numpy arrays, realized: what a jitted function takes."""
    return {name: tensor(array) for name, array in arrays.items()}


def memory(tensor: Tensor) -> Any:
    """The memory of a whole realized tensor as a numpy array while the tensor lives; None where it is no CPU's.

    To be read and written within a turn of `owner`, at whose beginning nothing is under way.
    """
    if tensor.device != "CPU" or not tensor.shape or 0 in tensor.shape:
        return None
    buffer = private.buffer_of(tensor)
    held = (ctypes.c_char * buffer.nbytes).from_address(private.address_of(buffer))
    return np.frombuffer(held, private.numpy_type(tensor.dtype)).reshape(tensor.shape)


def refill(tensor: Tensor, array: Any) -> None:
    """Copies an array of its shape and type into a tensor that has memory of its own."""
    with owner.turn():
        private.copy_in(private.buffer_of(tensor), memoryview(np.ascontiguousarray(array).data).cast("B"))


class Settled(dict[str, Tensor]):
    """Tensors by name that are not exchanged for others, nor moved, as long as somebody calls steps with them: a step
    that has looked at them once does not do so again. Their numbers may change."""


class Slots:
    """The changing inputs of a step, by name, as arrays to be written to: on a CPU the tensors' own memory."""

    def __init__(self, more: Mapping[str, Tensor], **arrays: Any) -> None:
        """`arrays` have the shapes; `more` tensors go with them."""
        tensors = tensors_from_numpy(**arrays)
        self._elsewhere = {n: t for n, t in tensors.items() if memory(t) is None}
        self.arrays = {n: arrays[n] if n in self._elsewhere else memory(t) for n, t in tensors.items()}
        self._tensors = Settled({**tensors, **more})

    def tensors(self) -> Settled:
        """The tensors, with what the arrays hold now."""
        for name, tensor in self._elsewhere.items():
            refill(tensor, self.arrays[name])
        return self._tensors


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
                self._made[key] = tensors, {n: memory(t) for n, t in tensors.items()}
                return tensors
            tensors, places = self._made[key]
            for name, place in places.items():
                if place is None:
                    refill(tensors[name], arrays[name])
                else:
                    place[...] = arrays[name]
        return tensors


def to_numpy(tensor: Tensor) -> Any:
    """A realized float32 tensor's numbers as a numpy array of its own.

    Straight from memory on a CPU, where `Tensor.numpy` goes through a graph and takes 1.5 ms for a single number.
    """
    with owner.turn():
        count = math.prod(int(n) for n in tensor.shape)
        whole = tensor.uop.is_realized and getattr(private.buffer_of(tensor), "size", 0) == count  # no part of another
        if tensor.device != "CPU" or tensor.dtype != dtypes.float32 or not whole:
            return tensor.numpy().copy()
        Device["CPU"].synchronize()
        held = (ctypes.c_float * count).from_address(private.address_of(private.buffer_of(tensor)))
        return np.ctypeslib.as_array(held).reshape(tensor.shape).copy()
