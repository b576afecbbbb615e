"""What multiplies matrices on this processor: tiles of our own, or a BLAS where they are not known to be its match.

Nothing here imports tinygrad, since a run's lock asks before anything is computed.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

from llmspec.backends.cpu import blas_library, early

MEASURED = ("AVX-512", "AVX2", "AVX", "SSE")
"""Sets of instructions on which our tiles reach 0.95 of OpenBLAS's speed and more, on one thread and on two:
tests/benchmarks/test_product_speed.py. A BLAS multiplies on others, if there is one."""
WITH_THREADS = ("Accelerate",)
"""Libraries that are called for a whole product, since they have threads, or units, of their own."""


@dataclass(frozen=True)
class Provider:
    """What multiplies. It follows from the processor (and, on a few, from numpy's BLAS), never from the threads."""

    name: str
    blas: blas_library.Found | None = None

    @property
    def whole(self) -> bool:
        """Whether a product is one call of the BLAS, rather than one of each band."""
        return self.blas is not None and self.blas.name in WITH_THREADS


@functools.cache
def provider() -> Provider:
    """Chooses what multiplies. Raises ToolchainError where no compiler is found."""
    library = early.load()
    library.instruction_set.restype = ctypes.c_char_p
    made_of = library.instruction_set().decode()
    own = f"own tiles of {library.tile_height()} × {2 * library.lanes()} ({made_of})"
    if made_of in MEASURED:
        return Provider(own)
    blas = blas_library.search()
    if isinstance(blas, str):
        return Provider(f"{own}; no BLAS: {blas}")
    return Provider(f"{blas.name}, since own tiles have not been compared with a BLAS on {made_of}", blas)
