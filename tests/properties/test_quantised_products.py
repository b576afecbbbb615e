"""Products whose weights stay quantised: blocks are read as `gguf` reads them, rows keep their bits."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np
import pytest
import quantised_cases
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import numbers
from quantised_cases import TYPES

from llmspec.model.device import open_device

open_device("CPU")

from llmspec.backends.cpu import native  # noqa: E402  (the compiler comes first)

kinds = pytest.mark.parametrize("name", TYPES)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def packed_in_c(raw: np.ndarray, rows: int, k: int, number: int) -> np.ndarray:
    words = [ctypes.c_int64(n) for n in (rows, k, number)]
    native.library().packed_bytes.restype = ctypes.c_int64
    out = np.full(native.library().packed_bytes(*words), 0xA5, np.uint8)
    native.library().pack_quantised(pointer(out), pointer(raw), *words)
    return out


@kinds
@pytest.mark.parametrize("rows", [1, 16, 35])
def test_blocks_of_a_file_are_kept_without_loss(name: str, rows: int) -> None:
    """Every bit pattern of a block but scales that are not finite."""
    kind = gguf.GGMLQuantizationType(TYPES[name].number)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    k, rng = 512, np.random.default_rng(rows)
    raw = rng.integers(0, 256, (rows, k // block, size), np.uint8)
    places = {"q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "q4_1": (0, 2), "q5_1": (0, 2)}.get(name, (0,))
    for at in places:
        raw[..., at + 1] &= 0xBF  # an exponent below that of infinity
    exact = quants.dequantize(raw.reshape(rows, -1), kind)
    assert np.isfinite(exact).all()
    packed, ids = packed_in_c(raw, rows, k, kind), np.arange(rows, dtype=np.int32)
    out = np.zeros((rows, k), np.float32)
    words = [ctypes.c_int64(n) for n in (rows, k, rows, int(kind))]
    native.library().quantised_rows(pointer(out), pointer(packed), pointer(ids), *words)
    assert (out == exact).all()


def product(x: np.ndarray, packed: np.ndarray, outputs: int, number: int) -> np.ndarray:
    y = np.full((len(x), outputs), np.nan, np.float32)
    words = [ctypes.c_int64(n) for n in (*x.shape, outputs, 0, 0, number, number, number, 0)]
    native.library().quantised_linear(pointer(y), pointer(x), *[pointer(packed)] * 3, *[pointer(x)] * 3, *words)
    return y


@kinds
@settings(deadline=None, max_examples=15)
@given(st.data())
def test_a_row_is_the_same_in_any_company(name: str, data: st.DataObject) -> None:
    rows, outputs = data.draw(st.integers(1, 40)), data.draw(st.sampled_from((1, 16, 33)))
    made = quantised_cases.matrix(TYPES[name], 3, outputs, 512)
    x = numbers(1, rows, 512)
    together = product(x, made.packed, outputs, TYPES[name].number)
    alone = [product(x[i : i + 1], made.packed, outputs, TYPES[name].number)[0] for i in range(rows)]
    assert together.tobytes() == np.stack(alone).tobytes()


@kinds
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from((1e-28, 1e-3, 1.0, 1e6)))
def test_products_are_off_by_the_rounding_of_activations_alone(name: str, seed: int, spread: float) -> None:
    made = quantised_cases.matrix(TYPES[name], seed, 33, 512)
    x = numbers(seed, 5, 512, spread=spread)
    x[0, 64:96] = 1.0  # an outlier's block, and one of equal numbers
    x[1, 5] *= 1e3
    y, exact = product(x, made.packed, 33, TYPES[name].number), x.astype(np.float64) @ made.values.T
    bound = quantised_cases.rounding_bound(x, made.values) + quantised_cases.sums_bound(x, made.values)
    assert (np.abs(y - exact) <= bound).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [1, 13])
def test_what_is_not_finite_stays_so(wrong: float, rows: int) -> None:
    made = quantised_cases.matrix(TYPES["q4_1"], 3, 20, 64)
    x = numbers(1, rows, 64)
    x[-1, 40] = wrong
    y = product(x, made.packed, 20, TYPES["q4_1"].number)
    assert np.isnan(y[-1]).all() and np.isfinite(y[:-1]).all()


LINES = st.integers(9, 1000)


@settings(deadline=None, max_examples=15)
@given(st.lists(LINES, min_size=1, max_size=6), st.integers(2, 100))
def test_each_product_knows_what_is_read_after_it(layer: list[int], layers: int) -> None:
    """However a model's matrices lie, and whatever was multiplied in this process before: q8_0's, and a model's layers
    are as far from one another as its matrices say."""
    library, number = native.library(), TYPES["q8_0"].number
    library.follows.restype = ctypes.c_void_p
    memory, x = np.zeros((sum(layer) * layers, 64), np.uint8), numbers(0, 1, 32)
    ends = np.cumsum([0, *layer * layers])[:-1]
    for _ in range(2):
        for end in ends:
            product(x, memory[end:], 16, number)
    at = [memory[end:].ctypes.data for end in ends]
    assert [library.follows(ctypes.c_void_p(one)) for one in at] == [*at[1:], at[0]]
