"""How much memory this process has held."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_bytes() -> int:
    """The most memory this process has held since its program began. Raises ImportError on Windows."""
    # Linux hands ru_maxrss of the starting process on to the started one; VmHWM is the program's own.
    if (found := _status("VmHWM")) is not None:
        return found
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def resident_bytes() -> int | None:
    """What this process holds now; None where the system does not say."""
    return _status("VmRSS")


def restart_peak() -> bool:
    """Lets `peak_bytes` count anew from what is held now; False where the system cannot (all but Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    """A line of Linux's account of this process, in bytes."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return None
