"""Which backend a device has: plain tinygrad everywhere, calls of C on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llmspec.backends import owner, sharing
from llmspec.backends.plain.backend import Backend


@functools.cache
def backend(device: str, plain: bool = False, precision: str = "float32") -> Backend:
    """The backend of a device. Raises ToolchainError on a CPU without a compiler.

    `precision` is a Plan's, which has no other than float32 for a CPU's own backend.
    """
    with owner.turn():
        sharing.share()
        if plain or not device.startswith("CPU"):
            return Backend("plain", precision=precision, halves=not device.startswith("CPU"))
        from llmspec.backends.cpu.backend import cpu_backend  # a GPU needs none of it

        return cpu_backend()


class Graphs:
    """Captured steps by their shapes; of many the latest stay, since each keeps memory of its own."""

    MOST = 8

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._held = make, dict[tuple[int | str, ...], Any]()

    def __getitem__(self, shape: tuple[int | str, ...]) -> Any:
        """Within a turn of `owner`."""
        found = self._held.pop(shape, None) or self._make()
        self._held[shape] = found
        while len(self._held) > self.MOST:
            del self._held[next(iter(self._held))]
        return found
