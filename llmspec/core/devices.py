"""Which device `auto` means here, and how many threads to use, found without importing tinygrad."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from llmspec.core import cgroups
from llmspec.core.problems import RunError, nearest

THREADS, OMP_THREADS = "LLMSPEC_THREADS", "OMP_NUM_THREADS"
MOST_THREADS = 64
"""As many as the C functions have room for (backends/cpu/c/pool.h)."""
DEVICES = ("CPU", "CUDA", "METAL", "NV", "AMD")
"""What DEV may name; its further parts, as in CUDA:1, are tinygrad's."""
FOR_USERS = ("LLMSPEC_CACHE", "LLMSPEC_THREADS", "LLMSPEC_TINYGRAD", "LLMSPEC_TRACEBACK", "LLMSPEC_INSTRUCTIONS")
VARIABLES = (*FOR_USERS, "LLMSPEC_HYPOTHESIS", "LLMSPEC_QUICKSTART")
"""Environment variables of llmspec; the last two are for its tests."""


NOWHERE = "NULL"
"""The device that computes nothing: graphs are measured on it."""


def kind_of(device: str) -> str:
    """The kind of a device without its number and its compiler: CPU, CUDA, METAL and so on."""
    return device.split(":")[0]


def automatic() -> tuple[str, str]:
    """(device, why): what DEV names, else an NVIDIA GPU, else an Apple GPU, else the CPU.

    A DEV that names no device, as other programs use it (`DEV=production`), is ignored, and the reason says so.
    """
    named, ignored = os.environ.get("DEV", ""), ""
    if named:
        device = named.upper()
        if re.fullmatch(rf"({'|'.join(DEVICES)})(:[\w.,+-]*)*", device):
            return "CPU" if device.startswith("CPU") else device, "DEV names it"
        ignored = f"; DEV={named[:40]!r} names no device ({', '.join(DEVICES)}) and is ignored"
    if shutil.which("nvidia-smi") and os.path.exists("/dev/nvidiactl"):
        return "CUDA", "an NVIDIA GPU is here" + ignored
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "METAL", "an Apple GPU is here" + ignored
    return "CPU", "no GPU was found" + ignored


def affinity() -> int:
    """Cores that this process may be put on: all, or what `taskset` or a batch system left."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: its affinity, and its container's quota of time, rounded.

    Of a quota of 1.5 a second thread makes half again as much; of one of 1.2 it takes as much as it gives.
    """
    limit = cgroups.quota(root) if sys.platform == "linux" else None
    return affinity() if limit is None else min(affinity(), max(1, math.floor(limit + 0.5)))


def threads(root: Path = Path("/")) -> int:
    """Threads to compute with: LLMSPEC_THREADS, else OMP_NUM_THREADS up to `cores()`, else `cores()`.

    Raises RunError where LLMSPEC_THREADS is no such number. An OMP_NUM_THREADS that is none is ignored, as OpenMP
    does; `remarks()` tells.
    """
    asked = os.environ.get(THREADS, "").strip()
    if asked:
        if not re.fullmatch(r"\+?0*[1-9]\d{0,8}", asked) or int(asked) > MOST_THREADS:
            raise RunError(
                f"{THREADS}={asked[:40]!r} is not a number of threads",
                f"a number from 1 to {MOST_THREADS}; unset, it would be {cores(root)} here",
                "the number of threads would be a guess",
            )
        return int(asked)
    limit = _omp_threads()
    return cores(root) if limit is None else min(limit, cores(root))


def remarks(root: Path = Path("/")) -> list[str]:
    """What this process's environment says that is not done as it is written, one sentence each."""
    found = []
    said = os.environ.get(OMP_THREADS, "").strip()
    if said and not os.environ.get(THREADS, "").strip():
        limit, here = _omp_threads(), cores(root)
        if limit is None:
            found.append(f"{OMP_THREADS}={said[:40]!r} is not a number of threads and is ignored")
        elif limit > here:
            found.append(
                f"{OMP_THREADS}={limit} is more than the {here} cores that this process may use: "
                f"{here} threads; {THREADS}={min(limit, MOST_THREADS)} would insist"
            )
    for name in sorted(n for n in os.environ if n.startswith("LLMSPEC_") and n not in VARIABLES):
        near = nearest(name, FOR_USERS)
        found.append(
            f"{name} is not a variable of llmspec and is ignored" + (f"; did you mean {near}?" if near else "")
        )
    return found


def _omp_threads() -> int | None:
    """OMP_NUM_THREADS as OpenMP reads it: a positive number, or a list of them, of which the first is the outermost."""
    levels = [word.strip() for word in os.environ.get(OMP_THREADS, "").split(",")]
    return int(levels[0]) if all(re.fullmatch(r"\+?0*[1-9]\d{0,17}", word) for word in levels) else None


def machine() -> str:
    """This machine's architecture by tinygrad's name for it, e.g. 'x86_64' or 'arm64'."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name)


def processor() -> str:
    """A text that changes when code compiled for this processor may not run on another: its model and features."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            first = info.read(16384).split("\n\n")[0]
    except OSError:
        return f"{machine()} {platform.processor()} {_apple_processor()}"
    kept = ("vendor_id", "cpu family", "model", "stepping", "flags", "features", "cpu implementer", "cpu part", "isa")
    lines = (line.partition(":") for line in first.splitlines())
    return f"{machine()} " + " ".join(v.strip() for k, _, v in lines if k.strip().lower().startswith(kept))


def _apple_processor() -> str:
    if sys.platform != "darwin":
        return ""
    import ctypes

    text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    library = ctypes.CDLL(None)
    if library.sysctlbyname(b"machdep.cpu.brand_string", text, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return ""
    return text.value.decode(errors="replace")
