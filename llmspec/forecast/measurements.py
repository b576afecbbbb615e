"""What was measured on this machine, kept in the user's cache: one JSON file a sort, an entry a machine or shape."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from llmspec.core.devices import cores, processor, threads
from llmspec.core.folders import cache_dir, write_atomically
from llmspec.core.hashing import digest
from llmspec.core.regular import read_regular

MOST = 64 << 20
"""Bytes of a file that are read, at most."""
ENTRIES = 500
"""The newest entries that a file keeps."""


class Kept:
    """Entries by key. A file that is missing or damaged counts as empty, since all can be measured again."""

    def __init__(self, file: str) -> None:
        self._file = file

    def there(self) -> bool:
        """Whether anything was ever kept: a look at the disk, nothing more."""
        try:
            return (cache_dir() / self._file).is_file()
        except OSError:
            return False

    def read(self) -> dict[str, Any]:
        """All entries by key."""
        try:
            held = json.loads(read_regular(cache_dir() / self._file, MOST))
        except (OSError, ValueError, RecursionError):
            return {}
        return held if isinstance(held, dict) else {}

    def number(self, key: str) -> float | None:
        """A positive number; None where there is none."""
        found = self.read().get(key)
        return float(found) if isinstance(found, int | float) and 0 < found < float("inf") else None

    def keep_highest(self, key: str, value: float) -> None:
        """Keeps a number unless a higher one is known: a busy machine measures too little, never too much."""
        if value > (self.number(key) or 0.0):
            self.keep(key, value)

    def keep(self, key: str, value: Any) -> None:
        """Adds or replaces an entry. What cannot be kept is measured again."""
        held = self.read()
        held.pop(key, None)
        newest = dict(list({**held, key: value}.items())[-ENTRIES:])
        with contextlib.suppress(OSError):
            write_atomically(cache_dir() / self._file, json.dumps(newest).encode(), 0o600)


def machine_key(device: str) -> str:
    """A name for all that sets the pace of this machine: processor, cores, compiler, threads.

    Nothing heavy is imported for it, since `explain` asks. Raises ToolchainError where a CPU has no compiler.
    """
    compiler = ""
    if device.startswith("CPU"):
        from llmspec.backends.cpu.early import instructions
        from llmspec.backends.cpu.toolchain import prepare

        compiler = prepare().identity + instructions()
    others = {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")}
    return digest([device, processor(), cores(), threads(), compiler, others])
