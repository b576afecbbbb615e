"""Captured steps without Python between their kernels, and without tinygrad where an earlier process captured them.

tinygrad 0.14 launches a CPU step's kernels one by one from Python, about 0.1 ms each, and needs seconds to make them.
Here a captured step becomes a Program (machine code, and a table of what each kernel is called with) that a C loop
walks and that the user's cache keeps. Whatever is not a plain CPU kernel leaves the step to tinygrad.
"""

from __future__ import annotations

import ctypes
import gc
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

from tinygrad import Device, Tensor, UOp

from llmspec.backends import owner
from llmspec.backends import tinygrad_private as private
from llmspec.backends.cpu import native, step_cache
from llmspec.backends.cpu.step_cache import HEAD, TOGETHER, WHOLE, WORDS, NotReplayable, Program, Returned
from llmspec.backends.tensors import Settled, to_numpy
from llmspec.backends.tinygrad_private import CPUProgram, Ops, TinyELF, address_of

ALIGNED, WORD = 64, 4
_NODE = operator.attrgetter("uop")


def tensors_of(args: tuple[Any, ...]) -> list[Tensor]:
    """Tensors in the order in which TinyJit numbers its inputs: those of the containers, one after another."""
    return list({id(t): t for t in held(args)}.values())


def held(args: Iterable[Any]) -> list[Tensor]:
    """The tensors of all containers, those that stand twice twice."""
    return [tensor for container in args if isinstance(container, dict) for tensor in container.values()]


def same(some: list[Any], others: list[Any]) -> bool:
    """Whether two lists hold the same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def address(tensor: Tensor) -> int:
    """Where a realized tensor's buffer lies."""
    return address_of(private.buffer_of(tensor))


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a realized tensor's buffer."""
    size: int = private.buffer_of(tensor).nbytes
    return size


class Recorder:
    """Turns a captured step into a Program. Raises NotReplayable where some call is no CPU kernel of fixed size."""

    def __init__(self, captured: Any, args: tuple[Any, ...], before: set[int]) -> None:
        self._tensors, self._before = tensors_of(args), before
        self._inputs = tuple(t.uop.base for t in self._tensors)
        self._bases = [address(t) for t in self._tensors]
        self._rows: list[list[int]] = []
        self._given: list[tuple[int, int, int, int]] = []  # row, word, input, offset in bytes
        self._own: list[tuple[int, int, int, int]] = []  # row, word, buffer, offset in bytes
        self._variables: list[tuple[int, int, str]] = []
        self._buffers: dict[int, tuple[int, int]] = {}  # id of a tinygrad buffer -> number, bytes
        self._codes: dict[int, tuple[int, bytes, str]] = {}  # id of a runtime -> number, code, name
        self._called: list[str] = []  # of each row: the C function that it calls, or nothing
        self._touched: list[list[range]] = []  # of each row: the addresses that its arguments have here
        self._captured = captured
        for call in captured.linear.src:
            self._add(call)
        self._join_small()

    def program(self) -> Program:
        """What was recorded."""
        returned = self._captured.ret
        single = isinstance(returned, Tensor)
        return Program(
            rows=self._rows,
            given=self._given,
            own=self._own,
            variables=self._variables,
            buffers=[size for _, size in self._buffers.values()],
            codes=[(code, name) for _, code, name in self._codes.values()],
            inputs=len(self._tensors),
            single=single,
            returned=[self._output(t) for t in ([returned] if single else returned)],
        )

    def _output(self, tensor: Tensor) -> Returned:
        buffer = private.buffer_of(tensor)
        number, offset = self._place(buffer)
        return Returned(number, offset, tuple(int(n) for n in tensor.shape), tensor.dtype.name)

    def _place(self, buffer: Any) -> tuple[int, int]:
        """The number of the memory that a buffer is a part of, and where in it."""
        base = buffer.base
        if id(base) in self._before:
            raise NotReplayable("a tensor that is no input")
        number, _ = self._buffers.setdefault(id(base), (len(self._buffers), base.nbytes))
        return number, address_of(buffer) - address_of(base)

    def _code(self, program: UOp, runtime: Any) -> int:
        if id(runtime) not in self._codes:
            elf = program.to_elf()
            self._codes[id(runtime)] = (len(self._codes), elf.lib, elf.name)
        return self._codes[id(runtime)][0]

    def _function(self, kernel: UOp, own: Any) -> str:
        """The C function that a kernel calls by the table of their addresses, which is an input; '' for none."""
        found = native.called(kernel)
        slot = _slot(own[found[1]]) if found else None
        return found[0] if found and slot is not None and self._tensors[slot] is native.handle() else ""

    def _add(self, call: UOp) -> None:
        """The rows of one call: one, or one for each core that its kernel is split over."""
        program, own = call.src[0], private.get_call_arg_uops(call)
        if program.op is not Ops.PROGRAM or own[0].device != "CPU":
            raise NotReplayable(f"{program.op} on {own[0].device}")
        info, runtime = program.arg, private.get_runtime("CPU", program)
        cores, count = info.global_size[0] if info.global_size else 1, len(info.globals) + len(info.vars)
        if not isinstance(cores, int) or count > WORDS - HEAD:
            raise NotReplayable("a symbolic launch, or too many arguments")
        resolved, function = private.resolve_params(call, self._inputs), self._function(program.src[0], own)
        for core in range(cores):  # split for cores: rows that do not depend on one another, which the first one says
            row, at = [self._code(program, runtime), count | (0 if core else cores << TOGETHER)], len(self._rows)
            for index in info.globals:
                buffer = resolved[index].buffer
                if (slot := _slot(own[index])) is not None:
                    self._given.append((at, len(row), slot, address_of(buffer) - self._bases[slot]))
                else:
                    self._own.append((at, len(row), *self._place(buffer)))
                row.append(0)
            given = [resolved[index].buffer for index in info.globals]
            self._called.append(function)
            self._touched.append([range(address_of(b), address_of(b) + b.nbytes) for b in given])
            for variable in info.vars:
                if len(row) - HEAD == runtime.runtimevars.get("core_id"):
                    row.append(core)
                else:
                    self._variables.append((at, len(row), variable.expr))
                    row.append(0)
            self._rows.append(row)

    def _join_small(self) -> None:
        """Marks small calls that follow one another and do not depend on one another: each thread does its own."""
        start, seen, written = 0, list[range](), list[range]()
        for row, touched in enumerate([*self._touched, []]):  # the last one, of no row, ends what is open
            count = native.SMALL.get(self._called[row], 0) if touched else 0
            writes, reads = touched[:count], touched[count:]
            if not writes or overlap(writes, seen) or overlap(reads, written):
                if row - start > 1:
                    arguments = self._rows[start][1] & (1 << TOGETHER) - 1
                    self._rows[start][1] = arguments | (row - start) << TOGETHER | WHOLE
                start, seen, written = row if writes else row + 1, [], []
            if writes:
                seen, written = [*seen, *touched], [*written, *writes]


def overlap(some: list[range], others: list[range]) -> bool:
    """Whether any two pieces of memory, one of each list, have a byte in common."""
    return any(max(a.start, b.start) < min(a.stop, b.stop) for a in some for b in others)


def finished(out: Any) -> Any:
    """What a step returned that tinygrad launched on a CPU, once it has ended. Raises RunError where C has failed."""
    first = out[0] if isinstance(out, tuple | list) and out else out
    if isinstance(first, Tensor) and first.device == "CPU":
        Device["CPU"].synchronize()
        native.raise_error()
    return out


def _slot(argument: UOp) -> int | None:
    """Which input an argument is, or is a part of; None for a buffer of the step's own."""
    found = [u for u in argument.toposort() if u.op is Ops.PARAM]
    return found[0].arg.slot if found else None


class LoadedStep:
    """A Program with its memory and its code in place, for tensors as large as these."""

    def __init__(self, program: Program, args: tuple[Any, ...]) -> None:
        import numpy as np

        self.program = program
        starts = np.cumsum([0, *(-(-size // ALIGNED) * ALIGNED for size in program.buffers)])
        self._memory = np.empty(int(starts[-1]) + ALIGNED, np.uint8)
        bases = starts + -(-self._memory.ctypes.data // ALIGNED) * ALIGNED
        device = Device["CPU"]
        self._codes = [
            CPUProgram(device, TinyELF(code, name, device.renderer.target, ())) for code, name in program.codes
        ]
        self._table = np.zeros((len(program.rows), WORDS), np.uint64)
        for row, words in enumerate(program.rows):
            self._table[row, : len(words)] = [self._codes[words[0]].addr, *words[1:]]
        for row, word, number, offset in program.own:
            self._table[row, word] = bases[number] + offset
        places = np.array(program.given, np.int64).reshape(-1, 4)
        self._at = tuple(places[:, :2].T)
        self._settled, self._moving, self._nodes = list[Settled](), list[Tensor](), list[UOp]()
        self._placed: list[UOp | None] = [None] * program.inputs
        self._bases = np.zeros(program.inputs, np.uint64)
        self._sizes = [bytes_of(t) for t in tensors_of(args)]
        self._inputs, self._offsets = places[:, 2], places[:, 3].astype(np.uint64)
        made = [
            Tensor.from_blob(int(bases[r.buffer]) + r.offset, r.shape, dtype=r.dtype, device="CPU")
            for r in program.returned
        ]
        self._returned: Any = made[0] if program.single else tuple(made)
        self._first = bases[(first := program.returned[0]).buffer] + first.offset - self._memory.ctypes.data
        self._array: Any = None
        self._replayed = ctypes.c_void_p(self._table.ctypes.data), ctypes.c_int64(len(self._table))

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """Runs every kernel on the inputs of this call. The returned tensors are overwritten by the next call."""
        # The same weights again, as a rule, which have pushed Python's objects out of the caches since the last step:
        # each of 300 that is looked at takes its time, and finding their buffers anew would be 4 ms.
        settled = [a for a in args if type(a) is Settled]
        moving = held(a for a in args if type(a) is not Settled)
        nodes = [*map(_NODE, moving)]
        if not (same(settled, self._settled) and same(nodes, self._nodes) and same(moving, self._moving)):
            self._place(tensors_of(args))
            self._settled, self._moving, self._nodes = settled, moving, nodes
        if self.program.variables:
            bound = dict(a.unbind() for a in args if isinstance(a, UOp))
            values = {variable.expr: value for variable, value in bound.items()}
            for row, word, name in self.program.variables:
                self._table[row, word] = values[name]
        if native.library().replay(*self._replayed):
            native.raise_error()
        return self._returned

    def _place(self, tensors: list[Tensor]) -> None:
        """Writes into the table where these inputs lie."""
        if len(tensors) != self.program.inputs:
            raise ValueError(f"the step was captured with {self.program.inputs} tensors, not {len(tensors)}")
        nodes: list[UOp | None] = [*map(_NODE, tensors)]
        for i, (node, placed) in enumerate(zip(nodes, self._placed, strict=True)):
            if node is not placed:
                if (size := bytes_of(tensors[i])) != self._sizes[i]:
                    raise ValueError(f"tensor {i} of the step was captured with {self._sizes[i]} bytes, not {size}")
                self._bases[i] = address(tensors[i])
        self._table[self._at] = self._bases[self._inputs] + self._offsets
        self._placed = nodes

    def array(self) -> Any:
        """A copy of the first tensor that the last call has returned, of float32: a numpy array."""
        if self._array is None:
            import numpy as np

            first, start = self.program.returned[0], int(self._first)
            if first.dtype != "float":
                raise TypeError(f"the step returns numbers of the type {first.dtype}, not float")
            bytes_of_it = self._memory[start : start + WORD * math.prod(first.shape)]
            self._array = bytes_of_it.view(np.float32).reshape(first.shape)
        return self._array.copy()


class CapturedStep:
    """A jitted function: captured on its first call, or found captured in the cache; replayed afterwards.

    `key` names everything that shapes the graph beside the arguments, the machine and the code of this project; without
    a key nothing is kept. With `replay` off, tinygrad launches every step, as it does one that is not all CPU kernels.
    """

    def __init__(self, function: Callable[..., Any], replay: bool = True, key: str = "") -> None:
        self._function, self._key, self._replay = function, key, replay
        self._jit: Any = None
        self.running: LoadedStep | None = None

    @property
    def captured_bytes(self) -> int:
        """Bytes of the step's own memory, which tinygrad does not count."""
        return sum(self.running.program.buffers) if self.running else 0

    def __call__(self, *args: Any) -> Any:
        """One thread at a time; RunError where the step fails. What is returned is overwritten by the next call."""
        with owner.turn():
            return self._called(args)

    def array(self, *args: Any) -> Any:
        """The call of a step that returns one float32 tensor: its numbers as a numpy array of their own."""
        with owner.turn():
            replays, out = self.running, self._called(args)  # the first call, which captures, has memory of its own
            return replays.array() if replays else to_numpy(out)

    def _called(self, args: tuple[Any, ...]) -> Any:
        if self.running is None and self._jit is None and self._replay and self._key:
            kept = step_cache.load(self._name(args))
            self.running = LoadedStep(kept, args) if kept else None
        if self.running is not None:
            return self.running(args)
        if self._jit is None:
            return finished(self._capture(args))
        return finished(self._jit(*args))

    def _name(self, args: tuple[Any, ...]) -> str:
        shapes = [
            [(n, t.shape, t.dtype.name) for n, t in a.items()]
            if isinstance(a, dict)
            else (a.unbind()[0].expr, a.vmin, a.vmax)
            for a in args
        ]
        same = {id(t): i for i, t in enumerate(tensors_of(args))}
        order = [same[id(t)] for a in args if isinstance(a, dict) for t in a.values()]
        return step_cache.name(self._key, self._function.__qualname__, shapes, order)

    def _capture(self, args: tuple[Any, ...]) -> Any:
        before = {id(b.base) for b in list(private.buffers.values()) if hasattr(b, "base")}
        name = self._name(args) if self._replay and self._key else ""
        self._jit = private.jit(self._function)
        out = self._jit(*args)
        if self._replay:
            try:
                program = Recorder(self._jit.captured, args, before).program()
            except NotReplayable:
                self._replay = False
                return out
            if name:
                step_cache.keep(name, program)
            # What tinygrad allocated for its own run of the step goes before the step's memory is first touched.
            self.running, self._jit = LoadedStep(program, args), True
            gc.collect()
            private.free_unused(Device["CPU"])
        return out
