"""The backend of a CPU: operations in C, and steps that C replays."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinygrad import Tensor, dtypes

from llmspec.backends.cpu import native, quantised
from llmspec.backends.cpu.arena import Arena
from llmspec.backends.cpu.captured_step import CapturedStep
from llmspec.backends.cpu.ops import CPUOps
from llmspec.backends.plain.backend import Backend
from llmspec.backends.plain.ops import Ops
from llmspec.backends.tensors import Settled
from llmspec.parts.dropout import Dropout
from llmspec.parts.ops import WeightLayout


@dataclass(frozen=True)
class CPUBackend(Backend):
    """Its `inputs` are the addresses of the C functions."""

    def hold(
        self, arrays: Mapping[str, Any], readable: frozenset[str] = frozenset()
    ) -> tuple[Settled, dict[str, WeightLayout]]:
        """As Backend.hold; what is readable stays quantised."""
        return quantised.hold(arrays, readable)

    def zeros(self, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> Settled:
        """As Backend.zeros; on Linux, what is not written takes no memory."""
        if sys.platform != "linux":
            return super().zeros(shapes)
        types = {name: getattr(dtypes, dtype) for name, (_, dtype) in shapes.items()}
        arena = Arena([math.prod(shape) * types[name].itemsize for name, (shape, _) in shapes.items()], zeros=True)
        return Settled({name: arena.tensor(shape, types[name]) for name, (shape, _) in shapes.items()})

    def numbers(self, weight: Tensor, layout: WeightLayout | None) -> Any:
        """As Backend.numbers."""
        return super().numbers(weight, None) if layout is None else quantised.unpacked(weight, layout)

    def jit(self, function: Callable[..., Any], key: str = "") -> Any:
        """As Backend.jit; with a `key`, which names all that shapes the graph beside the arguments, a later process
        finds the step captured."""
        return CapturedStep(function, key=key)

    def ops(
        self,
        inputs: dict[str, Tensor],
        key: Tensor | None = None,
        dropout: float | Dropout = 0.0,
        by_sequence: bool = False,
    ) -> Ops:
        """As Backend.ops; `by_sequence` holds bit for bit."""
        return CPUOps(inputs["native"], key, dropout, by_sequence)


def cpu_backend() -> Backend:
    """Compiles the C functions where no earlier process has. Raises ToolchainError without a compiler."""
    name = native.products()
    return CPUBackend(name, {"native": native.handle()}, continues=not native.library().uses_blas())
