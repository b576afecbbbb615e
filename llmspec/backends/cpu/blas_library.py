"""Where the BLAS that numpy has loaded lies, and whether it multiplies properly when called by address."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

ACCELERATE = "/System/Library/Frameworks/Accelerate.framework/Accelerate"
# (sgemm, sgemv, integer bits or 0 where the name does not tell); the first pair is what numpy's own wheels have.
SYMBOLS = (
    ("scipy_cblas_sgemm64_", "scipy_cblas_sgemv64_", 64),
    ("cblas_sgemm64_", "cblas_sgemv64_", 64),
    ("cblas_sgemm_64", "cblas_sgemv_64", 64),
    ("scipy_cblas_sgemm", "scipy_cblas_sgemv", 32),
    ("cblas_sgemm", "cblas_sgemv", 0),
)
THREADS = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)
"""Functions that tell and set the number of threads."""


@dataclass(frozen=True)
class Found:
    """Two functions at their addresses in this process."""

    name: str
    int_bits: int
    threads: int
    sgemm: int
    sgemv: int
    library: ctypes.CDLL

    def thread_functions(self) -> tuple[Callable[[], int], Callable[[int], object]]:
        """What tells and what sets the number of threads; where the library has no such functions, they do nothing."""
        for get, put in THREADS:
            if hasattr(self.library, get) and hasattr(self.library, put):
                return (
                    ctypes.CFUNCTYPE(ctypes.c_int)((get, self.library)),
                    ctypes.CFUNCTYPE(None, ctypes.c_int)((put, self.library)),
                )
        return lambda: 1, lambda threads: None


@functools.cache
def search() -> Found | str:
    """The first BLAS in this process that multiplies properly, or the reason why there is none."""
    try:
        import numpy  # noqa: F401  (loads its BLAS, which is then found)
        import threadpoolctl
    except ImportError as error:
        return f"{error.name} is not installed"
    reasons = []
    for path, name, threads in _libraries(threadpoolctl.threadpool_info()):
        try:
            found = _functions(ctypes.CDLL(path), name, threads)
        except OSError as error:
            reasons.append(f"{path} cannot be opened: {error}")
            continue
        if not isinstance(found, str):
            return found
        reasons.append(f"{path} {found}")
    return "; ".join(reasons) or "numpy has loaded no BLAS that threadpoolctl knows"


def _libraries(loaded: list[dict[str, Any]]) -> Iterator[tuple[str, str, int]]:
    blas = [info for info in loaded if info.get("user_api") == "blas"]
    # torch, scipy and others bring their own: numpy's comes first, so that importing them changes nothing.
    for info in sorted(blas, key=lambda info: "numpy" not in info["filepath"]):
        words = (info.get("internal_api"), info.get("version"), info.get("architecture"))
        yield info["filepath"], " ".join(str(word) for word in words if word), int(info.get("num_threads") or 1)
    if sys.platform == "darwin":
        yield ACCELERATE, "Accelerate", 1


def _functions(library: ctypes.CDLL, name: str, threads: int) -> Found | str:
    for gemm_name, gemv_name, named_bits in SYMBOLS:
        gemm, gemv = getattr(library, gemm_name, None), getattr(library, gemv_name, None)
        if gemm is None or gemv is None:
            continue
        bits = named_bits or (64 if _says_64(library) else 32)
        if not _multiplies(gemm, gemv, ctypes.c_int64 if bits == 64 else ctypes.c_int32):
            return f"has {gemm_name}, which gave wrong results"
        return Found(name, bits, threads, _address(gemm), _address(gemv), library)
    return "has no cblas_sgemm under a name that is known here"


def _says_64(library: ctypes.CDLL) -> bool:
    config = getattr(library, "openblas_get_config", None)
    if config is None:
        return False
    config.restype = ctypes.c_char_p
    return b"USE64BITINT" in (config() or b"")


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _multiplies(gemm: Any, gemv: Any, size: Any) -> bool:
    """Compare a (5, 7) @ (3, 7)^T product and a (5, 7) @ (7,) one with numpy's, in float64."""
    import numpy as np

    random = np.random.default_rng(0)
    a, b = random.standard_normal((5, 7), np.float32), random.standard_normal((3, 7), np.float32)
    c, y = np.full((5, 3), np.nan, np.float32), np.full(5, np.nan, np.float32)
    flag, real = ctypes.c_int32, ctypes.c_float
    at = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    gemm.restype = gemv.restype = None
    one, zero, seven = real(1), real(0), size(7)
    gemm(*map(flag, (101, 111, 112)), *map(size, (5, 3, 7)), one, at(a), seven, at(b), seven, zero, at(c), size(3))
    gemv(*map(flag, (101, 111)), *map(size, (5, 7)), one, at(a), seven, at(b), size(1), zero, at(y), size(1))
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    return bool(np.allclose(c, exact, atol=1e-4) and np.allclose(y, exact[:, 0], atol=1e-4))
