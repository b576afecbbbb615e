"""Calls C functions on memory with edges, and compares what they write with float64.

A case is one call: what is given, and for each output its exact value and how far rounding may lead away from it.
Nothing here imports tinygrad, so that a process with a sanitizer can use it.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

EPS = 2.0**-24
EDGE = 33 * 4
"""Bytes around a buffer: an odd number of floats, so that no buffer lies on a vector's border."""
Array = np.ndarray
Pick = Callable[[Sequence[Any]], Any]
"""Chooses one of several values: hypothesis does, or a random generator in a child process."""


class Output(NamedTuple):
    """A buffer that a call writes: exact value and room for rounding; None for one that it must leave alone."""

    exact: Array | None
    room: Array | float = 0.0
    start: Array | None = None  # what it holds before, where the call changes it in place


class Case(NamedTuple):
    function: str
    outputs: list[Output]
    given: list[Array]
    numbers: list[int | float]
    arguments: tuple[tuple[int, int], ...] = ()
    """The pointers where they are others than outputs and what is given: which of these, how many numbers into it."""


def numbers(seed: int, *shape: int, spread: float = 1.0) -> Array:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * spread).astype(np.float32)


@contextmanager
def edged(values: Array) -> Iterator[Array]:
    """A copy of the values between edges that must still be there afterwards."""
    whole = np.full(values.nbytes + 2 * EDGE, 0xA5, np.uint8)
    inner = whole[EDGE : EDGE + values.nbytes].view(values.dtype).reshape(values.shape)
    inner[...] = values
    yield inner
    assert (whole[:EDGE] == 0xA5).all() and (whole[-EDGE:] == 0xA5).all(), "wrote beside its buffer"


@contextmanager
def exactly_sized(values: Array) -> Iterator[Array]:
    """A copy of the values in memory of the C library that ends where they end: what an address sanitizer guards.

    It starts 4 bytes late, so that whatever needs more than a float's alignment is noticed.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    at = libc.malloc(4 + values.nbytes)
    inner = np.frombuffer((ctypes.c_char * values.nbytes).from_address(at + 4), values.dtype).reshape(values.shape)
    inner[...] = values
    yield inner
    libc.free(at)


def call(library: Any, case: Case, memory: Any = edged) -> list[Array]:
    """Runs a case twice: only its outputs change, each in full, and both times to the same bits."""
    runs = [_once(library, case, filler, memory) for filler in (0x00, 0xFF)]
    for one, other, output in zip(*runs, case.outputs, strict=True):
        assert output.exact is None or one.tobytes() == other.tobytes(), f"{case.function} is not repeatable"
    return runs[0]


def _once(library: Any, case: Case, filler: int, memory: Any) -> list[Array]:
    starts = []
    for output in case.outputs:
        shape = (1,) if output.exact is None else output.exact.shape
        filled = np.full(4 * max(1, int(np.prod(shape))), filler, np.uint8).view(np.float32).reshape(shape)
        starts.append(filled if output.start is None else output.start)
    held = [memory(values) for values in (*starts, *case.given)]
    places = [h.__enter__() for h in held]
    function = getattr(library, case.function)
    function.restype = None
    words = [ctypes.c_int64(n) if isinstance(n, int) else ctypes.c_float(n) for n in case.numbers]
    pointers = case.arguments or [(i, 0) for i in range(len(places))]
    function(*(ctypes.c_void_p(places[i].ctypes.data + 4 * at) for i, at in pointers), *words)
    written = [p.copy() for p in places[: len(starts)]]
    for place, values in zip(places[len(starts) :], case.given, strict=True):
        assert place.tobytes() == values.tobytes(), f"{case.function} wrote into what it only reads"
    for before, after, output in zip(starts, written, case.outputs, strict=True):
        assert output.exact is not None or before.tobytes() == after.tobytes(), f"{case.function} wrote too much"
    for h in held:
        h.__exit__(None, None, None)
    return written


def check(library: Any, case: Case, memory: Any = edged) -> list[Array]:
    """Runs a case and holds every output to its bound; what was written."""
    made = call(library, case, memory)
    for i, (array, output) in enumerate(zip(made, case.outputs, strict=True)):
        if output.exact is not None:
            within(array, output.exact, output.room, f"{case.function}{tuple(case.numbers)}, output {i}:")
    return made


def within(made: Array, exact: Array, room: Array | float, what: str = "") -> None:
    assert made.shape == exact.shape and np.isfinite(made).all(), what
    excess = np.abs(made - exact) - room
    assert (excess <= 1e-30).all(), f"{what} {excess.max():g} beyond its bound"


def digest(arrays: Sequence[Array]) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


def drive(library: Any, makers: dict[str, Callable[[Pick], list[Case]]], rounds: int, memory: Any = edged) -> list[str]:
    """Checks drawn cases of every maker, the same ones in every process; one line for each with a hash of its bits."""
    lines = []
    for name, maker in makers.items():
        for turn in range(rounds):
            rng = np.random.default_rng([turn, len(name)])
            pick = lambda values, rng=rng: values[int(rng.integers(len(values)))]
            done = [check(library, case, memory) for case in maker(pick)]
            lines.append(f"{name} {turn} {digest([a for made in done for a in made])}")
    return lines


def trouble(library: Any) -> tuple[int, int, int]:
    """(kind, value, limit) of what went wrong since this was last asked; kind 0 for nothing."""
    words = (ctypes.c_int64 * 2)()
    return int(library.take_error(words)), words[0], words[1]


def misled(case: Case) -> Iterator[Case]:
    """The case with an index that leads out of its table, one at a time; nothing for a case without indices."""
    for at, values in enumerate(case.given):
        if values.dtype != np.int32:
            continue
        changes = [{-1: 2**31 - 1}, {-1: -(2**31)}, {0: -1}, {0: 10**6}]
        if case.function.startswith("attention"):
            if values.ndim == 1:  # the key of dropout, any bits
                continue
            if values.ndim == 3:  # pairs of first key and end
                changes = [{1: 2**31 - 1}, {0: -5, 1: 1}]
            else:  # positions, all far from the other side's, since a query may have no keys
                changes = [dict.fromkeys(range(values.size), 10**6)]
        for change in changes:
            other = values.copy()
            for place, index in change.items():
                other.flat[place] = index
            yield case._replace(given=[*case.given[:at], other, *case.given[at + 1 :]])


def mislead(library: Any, makers: dict[str, Callable[[Pick], list[Case]]], memory: Any = edged) -> set[str]:
    """Calls every function with indices that lead out of their tables, which it has to tell; names of those called."""
    names = set()
    for maker in makers.values():
        for turn in range(4):
            rng = np.random.default_rng(turn)
            for case in maker(lambda values, rng=rng: values[int(rng.integers(len(values)))]):
                for wrong in misled(case):
                    _once(library, wrong, 0, memory)
                    assert trouble(library)[0] == 2, f"{case.function} followed an index out of its table"
                    names.add(case.function)
    assert trouble(library)[0] == 0
    return names
