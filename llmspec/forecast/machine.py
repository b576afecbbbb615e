"""What this machine can do: matrix products through the backend that training uses, and its memory."""

from __future__ import annotations

import contextlib
import os
import platform
from statistics import median
from typing import Any

from llmspec.core.devices import cores
from llmspec.forecast.measurements import Kept, machine_key
from llmspec.forecast.microbench import graph_seconds
from llmspec.forecast.report import Machine, Product
from llmspec.forecast.timing import Numbers, timed
from llmspec.model.device import open_device

SQUARES, LARGER = (512, 1024, 2048), (4096, 8192)
"""Sides of square products, and of those for a GPU beside them; the fastest product of all is the machine's peak."""
SHAPES = ((768, 128, 512), (2048, 384, 1536), (512, 768, 3072), (8, 2048, 2048))
"""(rows, inner, columns) as models have them: feed-forward blocks small and large, and a few tokens at once."""
VECTOR = (4096, 32768)
"""Columns and rows of the matrix by which a vector is multiplied: 512 MiB. A cache of 32 MiB held so much of 128 MiB
that one and the same memory gave 38 or 53 GB/s."""
COPIED = 128 << 20
"""Bytes of the array that is copied."""
EACH = 0.4
"""Seconds for each shape."""
KEPT, RATE = Kept("peaks.json"), Kept("memory_rate.json")


def measure(device: str) -> Machine:
    """Measures the machine for some 4 s, in this process. Raises ToolchainError where a CPU has no compiler."""
    open_device(device)
    from llmspec.backends.backend import backend

    shapes = [(n, n, n) for n in squares(device)] + list(SHAPES)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    products = tuple(
        Product(rows=m, inner=k, columns=n, flops_per_second=2.0 * m * k * n / product_seconds(device, m, k, n))
        for m, k, n in shapes
    )
    peak = max(p.flops_per_second for p in products)
    _remember(device, peak)
    return Machine(
        processor=processor_name(),
        cores=cores(),
        device=device,
        products=products,
        products_by=backend(device).name,
        peak_flops=peak,
        copy_bytes=2.0 * COPIED / copy_seconds(device),
        product_bytes=memory_rate(device),
        load=load,
    )


def squares(device: str) -> tuple[int, ...]:
    """Sides of the square products that a device is measured by."""
    return SQUARES if device.startswith("CPU") else SQUARES + LARGER


def peak_flops(device: str) -> float:
    """FLOPs a second of the fastest float32 product; measured once for a processor and compiler, then read.

    Raises ToolchainError where a CPU has no compiler.
    """
    open_device(device)
    known = known_peak(device)
    if known is None:
        known = max(2.0 * n**3 / product_seconds(device, n, n, n, seconds=0.1) for n in squares(device)[:-1])
        _remember(device, known)
    return known


def memory_rate(device: str) -> float:
    """Bytes of weights a second that the product of one vector by a large matrix usually reads, measured for half a
    second; the most that it ever read is kept. Raises ToolchainError where a CPU has no compiler."""
    open_device(device)
    inner, columns = VECTOR
    times = product_times(device, 1, inner, columns, drawn=False)
    RATE.keep_highest(machine_key(device), 4.0 * inner * columns / min(times))
    return 4.0 * inner * columns / median(times)


def product_seconds(device: str, rows: int, inner: int, columns: int, seconds: float = EACH) -> float:
    """The shortest time of (rows, inner) @ (columns, inner)ᵀ, in a graph of its own."""
    return min(product_times(device, rows, inner, columns, seconds))


def product_times(
    device: str, rows: int, inner: int, columns: int, seconds: float = EACH, drawn: bool = True
) -> Numbers:
    """Seconds of each of such products: of normal numbers, or of zeros where they are not `drawn`, which takes longer
    than many products."""
    import numpy as np

    rng, shapes = np.random.default_rng(0), {"a": (rows, inner), "b": (columns, inner)}
    arrays = {n: rng.standard_normal(s, np.float32) if drawn else np.zeros(s, np.float32) for n, s in shapes.items()}

    def multiply(ops: Any, t: dict[str, Any]) -> tuple[Any, ...]:
        return (ops.matmul(t["a"], t["b"], transpose_b=True),)

    return graph_seconds(device, multiply, arrays, seconds)


def copy_seconds(device: str) -> float:
    """The shortest time of reading and writing `COPIED` bytes of a device's memory."""
    import numpy as np

    source = np.ones(COPIED // 4, np.float32)
    if not device.startswith("CPU"):
        return min(graph_seconds(device, lambda ops, t: ((t["a"] + 1).contiguous(),), {"a": source}, EACH))
    target = np.empty_like(source)
    target[:] = 0  # the pages are made before the clock starts
    return min(timed(lambda: np.copyto(target, source), None, EACH))


def processor_name() -> str:
    """The processor as its maker names it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
        for line in info:
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# -- earlier measurements --------------------------------------------------------------------------------------------
def known_peak(device: str) -> float | None:
    """The peak as an earlier measurement has it, after `open_device`; None where nothing was measured."""
    return KEPT.number(machine_key(device))


def _remember(device: str, peak: float) -> None:
    KEPT.keep_highest(machine_key(device), peak)
