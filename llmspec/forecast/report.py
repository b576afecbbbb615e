"""What was measured of a machine."""

from __future__ import annotations

from llmspec.parts.base import Frozen


class Product(Frozen):
    """A float32 matrix product (rows, inner) @ (inner, columns)."""

    rows: int
    inner: int
    columns: int
    flops_per_second: float


class Machine(Frozen):
    """What this machine can do, through the operations that training uses."""

    processor: str
    cores: int
    device: str
    products: tuple[Product, ...]
    products_by: str
    """The backend of matrix products."""
    peak_flops: float
    """FLOPs a second of the fastest product, float32."""
    copy_bytes: float
    """Bytes a second read and written in going once through a large array: on a CPU by numpy's copy, in one thread."""
    product_bytes: float
    """Bytes of weights a second that the product of one vector by a large matrix reads: what bounds decoding."""
    load: float | None
    """Processes that wanted a core in the last minute, before the measurement; None where the system does not say."""
