"""Captured steps without Python between their kernels.

tinygrad 0.14 launches a CPU step's kernels one by one from Python, about 0.1 ms each: 130 ms of a step with 1,300. Here
the addresses and arguments of all of them stand in one table that a C loop walks. Whatever is not a plain CPU kernel
leaves the step to tinygrad.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from tinygrad import Tensor, UOp
from tinygrad.engine.jit import TinyJit
from tinygrad.engine.realize import get_call_arg_uops, get_runtime, resolve_params
from tinygrad.uop.ops import Ops

from llmspec.kernels import native

WORDS, HEAD, TOGETHER = 64, 2, 32
"""Of a table row: the function, the number of its arguments with the number of rows that run together, 62 arguments."""


def tensors_of(args: tuple[Any, ...]) -> list[Tensor]:
    """Tensors in the order in which TinyJit numbers its inputs: those of the containers, one after another."""
    found: dict[int, Tensor] = {}
    for container in args:
        if isinstance(container, dict):
            found.update((id(t), t) for t in container.values())
    return list(found.values())


def address(tensor: Tensor) -> int:
    """Where a realized tensor's buffer lies."""
    return tensor.uop.base.buffer.ensure_allocated().get_buf("CPU").va_addr  # type: ignore[union-attr]


class Table:
    """The kernels of one captured step. Raises Unfit where some call is no CPU kernel of fixed size."""

    def __init__(self, captured: Any, args: tuple[Any, ...]) -> None:
        import numpy as np

        tensors = tensors_of(args)
        inputs = tuple(t.uop.base for t in tensors)
        bases = [address(t) for t in tensors]
        rows: list[list[int]] = []
        self.names: list[str] = []
        """What each row runs, for measurements."""
        self._places: list[tuple[int, int, int, int]] = []  # row, word, input, offset in bytes
        self._variables: list[tuple[int, int, str]] = []  # row, word, name
        for call in captured.linear.src:
            self._add(rows, call, inputs, bases)
        self._table = np.zeros((len(rows), WORDS), np.uint64)
        for row, words in enumerate(rows):
            self._table[row, : len(words)] = words
        places = np.array(self._places, np.int64).reshape(-1, 4)
        self._at = tuple(places[:, :2].T)
        self._slot, self._offset = places[:, 2], places[:, 3].astype(np.uint64)
        self._held = captured  # owns the buffers and the code that the table points to
        self._count = len(tensors)

    def _add(self, rows: list[list[int]], call: UOp, inputs: tuple[UOp, ...], bases: list[int]) -> None:
        """The rows of one call: one, or one for each core that its kernel is split over."""
        program, own = call.src[0], get_call_arg_uops(call)
        if program.op is not Ops.PROGRAM or own[0].device != "CPU":
            raise Unfit(f"{program.op} on {own[0].device}")
        info, runtime = program.arg, get_runtime("CPU", program)
        cores = info.global_size[0] if info.global_size else 1
        if not isinstance(cores, int) or len(info.globals) + len(info.vars) > WORDS - HEAD:
            raise Unfit("a symbolic launch, or too many arguments")
        resolved = resolve_params(call, inputs)
        for core in range(cores):  # split for cores: rows that do not depend on one another, which the first one says
            row = [runtime.addr, len(info.globals) + len(info.vars) | (0 if core else cores << TOGETHER)]
            for index in info.globals:
                where = resolved[index].buffer.ensure_allocated().get_buf("CPU").va_addr  # type: ignore[union-attr]
                if (slot := _slot(own[index])) is not None:
                    self._places.append((len(rows), len(row), slot, where - bases[slot]))
                row.append(where)
            for variable in info.vars:
                if len(row) - HEAD == runtime.runtimevars.get("core_id"):
                    row.append(core)
                else:
                    self._variables.append((len(rows), len(row), variable.expr))
                    row.append(0)
            rows.append(row)
            self.names.append(info.name)

    def __call__(self, args: tuple[Any, ...]) -> None:
        """Runs every kernel on the inputs of this call."""
        import numpy as np

        tensors = tensors_of(args)
        if len(tensors) != self._count:
            raise ValueError(f"the step was captured with {self._count} tensors, not {len(tensors)}")
        bases = np.array([address(t) for t in tensors], np.uint64)
        self._table[self._at] = bases[self._slot] + self._offset
        bound = dict(a.unbind() for a in args if isinstance(a, UOp))
        values = {variable.expr: value for variable, value in bound.items()}
        for row, word, name in self._variables:
            self._table[row, word] = values[name]
        native.library().replay(self._table.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(self._table)))


class Unfit(Exception):
    """This step is left to tinygrad; the reason is for the lab, not for people."""


def _slot(argument: UOp) -> int | None:
    """Which input an argument is, or is a part of; None for a buffer of the step's own."""
    found = [u for u in argument.toposort() if u.op is Ops.PARAM]
    return found[0].arg.slot if found else None


class Replayed:
    """A jitted function: captured on its first call, replayed from a table afterwards."""

    def __init__(self, function: Callable[..., Any], tables: bool = True) -> None:
        self._jit: Any = TinyJit(function)
        self._jit.cnt = 1  # everything it needs is realized, so no dry run is due
        self._table: Table | None = None
        self._tables = tables

    def __call__(self, *args: Any) -> Any:
        if self._table is not None:
            self._table(args)
            return self._jit.captured.ret
        out = self._jit(*args)
        if self._tables:
            try:
                self._table = Table(self._jit.captured, args)
            except Unfit:
                self._tables = False
        return out
