"""Weights in ggml's types: bit for bit the library `gguf`, and K-quants within the bound of their rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st

from llmspec.core import k_blocks
from llmspec.core.problems import LlmspecError
from llmspec.core.quantised import Quantised, quantise
from llmspec.core.weight_types import BY_NUMBER, TYPES, UNREAD

K_QUANTS = ("q4_k", "q5_k", "q6_k")
WRITTEN_BY_BOTH = tuple(name for name in TYPES if name not in K_QUANTS)
STEP_OF_HALF, TINY_OF_HALF = 2.0**-11, 2.0**-25
"""How far half precision rounds: relatively, and where numbers are its denormals."""


def theirs(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType(TYPES[name].ggml)


def bits(array: Any) -> Any:
    return np.ascontiguousarray(array).view(np.uint8)


@st.composite
def tensors(draw: st.DrawFn, block: int) -> Any:
    """Float32 tensors whose rows are whole blocks: odd numbers of rows and axes, blocks of every kind beside others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (*draw(st.lists(st.integers(1, 5), max_size=2)), block * draw(st.integers(1, 3)))
    found = rng.standard_normal(shape).astype(np.float32)
    blocks = found.reshape(-1, block)
    for i in range(len(blocks)):
        kind = draw(
            st.sampled_from(("normal", "zero", "equal", "denormal", "wide", "one", "negative", "codes", "large"))
        )
        size = np.float32(draw(st.sampled_from((1e-30, 1e-6, 1.0, 1e3))))
        if kind == "zero":
            blocks[i] = draw(st.sampled_from((0.0, -0.0)))
        elif kind == "equal":
            blocks[i] = size * draw(st.sampled_from((-1, 1)))
        elif kind == "denormal":
            blocks[i] *= np.float32(1e-41)
        elif kind == "wide":
            blocks[i] *= np.exp2(rng.integers(-60, 10, block)).astype(np.float32)
        elif kind == "one":
            blocks[i] = 0
            blocks[i, rng.integers(block)] = size
        elif kind == "negative":
            blocks[i] = -np.abs(blocks[i]) - size
        elif kind == "codes":
            blocks[i] = rng.integers(-8, 9, block) / np.float32(2)
        elif kind == "large":
            blocks[i] *= np.float32(2000)
        else:
            blocks[i] *= size
    return found


def test_the_table_is_that_of_the_library() -> None:
    for kind in TYPES.values():
        assert (kind.block, kind.bytes) == GGML_QUANT_SIZES[theirs(kind.name)]
        assert theirs(kind.name).name.lower() == kind.name and BY_NUMBER[kind.ggml] is kind
    both = {int(t): t.name.lower() for t in GGMLQuantizationType}
    assert UNREAD | {n: t.name for n, t in BY_NUMBER.items()} == both
    assert TYPES["q4_k"].bits == 4.5 and TYPES["q4_k"].size((3, 2, 512)) == 3 * 2 * 2 * 144
    assert not TYPES["q4_k"].fits((256, 32)) and TYPES["f16"].fits((7,))


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_numbers_are_those_of_the_library_for_any_bytes(name: str, data: st.DataObject) -> None:
    """Scales that are infinite or no number among them."""
    kind, rng = TYPES[name], np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = (*data.draw(st.lists(st.integers(1, 5), max_size=2)), kind.block * data.draw(st.integers(1, 3)))
    raw = rng.integers(0, 256, (int(np.prod(shape[:-1])), kind.row(shape[-1])), dtype=np.uint8)
    ours, finite = Quantised(name, shape, raw).dequantised(), Quantised(name, shape, raw).finite()
    with np.errstate(all="ignore"):
        wanted = quants.dequantize(raw, theirs(name))
    assert ours.shape == shape and ours.dtype == np.float32
    assert np.array_equal(bits(ours).ravel(), bits(wanted).ravel())
    assert finite == bool(np.isfinite(wanted).all())


@pytest.mark.parametrize("name", WRITTEN_BY_BOTH)
@given(data=st.data())
def test_bytes_are_those_of_the_library(name: str, data: st.DataObject) -> None:
    x = data.draw(tensors(TYPES[name].block))
    if name == "f16":
        x = np.clip(x, -65504, 65504)
    ours = quantise(name, x)
    with np.errstate(all="ignore"):
        packed = quants.quantize(x, theirs(name))
        wanted = quants.dequantize(packed, theirs(name))
    span = np.abs(x).reshape(-1, TYPES[name].block).max(axis=1)
    usual = (span == 0) | (span > 1e-35)  # below, the library divides by a step that is 0, and writes what comes of it
    blocks = ours.data.reshape(-1, TYPES[name].bytes)
    assert np.array_equal(blocks[usual], bits(packed).reshape(blocks.shape)[usual])
    assert np.array_equal(
        bits(ours.dequantised().reshape(len(blocks), -1)[usual]), bits(wanted.reshape(len(blocks), -1)[usual])
    )


@pytest.mark.parametrize("name", [t for t in WRITTEN_BY_BOTH if TYPES[t].quantised])
@given(data=st.data())
def test_a_number_is_off_by_half_a_step(name: str, data: st.DataObject) -> None:
    """And by what rounding the scales to half precision adds; the largest number of q4_0 and q5_0 by a whole step,
    where its opposite takes the lowest code."""
    x = data.draw(tensors(32))
    blocks = x.reshape(-1, 32).astype(np.float64)
    codes = {"q8_0": 127, "q4_0": 8, "q5_0": 16, "q4_1": 15, "q5_1": 31}[name]
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    span = high - low if name.endswith("_1") else np.abs(blocks).max(axis=1)
    step = span / codes
    off = step * (1 if name in ("q4_0", "q5_0") else 0.5) + codes * np.maximum(step * STEP_OF_HALF, TINY_OF_HALF)
    off += np.maximum(np.abs(low) * STEP_OF_HALF, TINY_OF_HALF) if name.endswith("_1") else 0
    found = np.abs(quantise(name, x).dequantised().reshape(-1, 32) - blocks).max(axis=1)
    assert (found <= off * (1 + 1e-5) + 1e-44).all()


def bound_of_lines(x: Any, found: Quantised, most: int) -> Any:
    """The weighted mean error (square root of the mean of squares) that a sub-block of q4_k or q5_k may have.

    The search begins with the plain step, (greatest - least) / most, with which each number is off by half of it, and
    takes only what has a smaller weighted square error. A scale is then rounded to a multiple of d, and d to half
    precision; codes move nothing but for the better, since they are chosen anew. The errors add (Minkowski).
    """
    packed = found.data.reshape(-1, found.kind.bytes)
    parts = x.astype(np.float64).reshape(-1, 8, 32)
    step = (parts.max(axis=2) - np.minimum(parts.min(axis=2), 0)) / most
    rounding = [
        np.repeat(k_blocks.scale(packed, at) * (0.5 + 64 * STEP_OF_HALF) + 64 * TINY_OF_HALF, 8, 1) for at in (0, 2)
    ]
    return step / 2 + most * rounding[0] + rounding[1]


@pytest.mark.parametrize(("name", "most"), [("q4_k", 15), ("q5_k", 31)])
@given(data=st.data())
def test_k_quants_are_within_the_bound_of_their_rounding(name: str, most: int, data: st.DataObject) -> None:
    x = data.draw(tensors(256))
    found = quantise(name, x)
    parts = x.astype(np.float64).reshape(-1, 8, 32)
    weight = np.abs(parts) + np.sqrt((parts**2).mean(axis=2, keepdims=True))
    weight[weight.sum(axis=2) == 0] = 1
    off = found.dequantised().astype(np.float64).reshape(parts.shape) - parts
    mean = np.sqrt((weight * off**2).sum(axis=2) / weight.sum(axis=2))
    assert (mean <= bound_of_lines(x, found, most) * (1 + 1e-4)).all()


@given(data=st.data())
def test_q6_k_is_within_the_bound_of_its_rounding(data: st.DataObject) -> None:
    """As q4_k; the plain step is the largest magnitude / 32, whose opposite is off by a whole one."""
    x = data.draw(tensors(256))
    found = quantise("q6_k", x)
    parts = x.astype(np.float64).reshape(-1, 16, 16)
    d = np.abs(k_blocks.scale(found.data.reshape(-1, 210), 208))
    weight = parts**2
    weight[np.abs(parts).max(axis=2) < 1e-150] = 1
    off = found.dequantised().astype(np.float64).reshape(parts.shape) - parts
    mean = np.sqrt((weight * off**2).sum(axis=2) / weight.sum(axis=2))
    bound = np.abs(parts).max(axis=2) / 32 + 32 * (d * (1 + 128 * STEP_OF_HALF) + 128 * TINY_OF_HALF)
    assert (mean <= bound * (1 + 1e-4)).all()


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_what_is_written_is_finite_and_keeps_zeros(name: str, data: st.DataObject) -> None:
    x = np.clip(data.draw(tensors(TYPES[name].block)), -60000, 60000)
    found = quantise(name, x)
    assert found.finite() and np.isfinite(found.dequantised()).all()
    zero = ~x.reshape(-1, TYPES[name].block).any(axis=1)
    assert not found.dequantised().reshape(len(zero), -1)[zero].any()


@pytest.mark.parametrize("seed", range(3))
def test_four_bits_with_searched_scales_are_no_worse_than_without(seed: int) -> None:
    """q4_k takes half a bit a weight less than q4_1, and may be 1 % worse."""
    x = np.random.default_rng(seed).standard_normal((32, 1024)).astype(np.float32)
    off = {name: float(np.square(quantise(name, x).dequantised() - x).mean() ** 0.5) for name in TYPES}
    assert off["q4_k"] <= 1.01 * off["q4_1"]
    assert off["q5_k"] <= 1.01 * off["q5_1"]
    assert off["q6_k"] < off["q5_k"] < off["q4_k"] < off["q4_0"]


@pytest.mark.parametrize("name", K_QUANTS)
def test_the_search_is_worth_its_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((16, 1024)).astype(np.float32)
    searched = np.square(quantise(name, x).dequantised() - x).mean()
    plain = k_blocks._best_lines
    monkeypatch.setattr(k_blocks, "_best_lines", lambda x, most, first, tries: plain(x, most, first, 0))
    monkeypatch.setattr(
        k_blocks, "_signed_steps", lambda x: np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0] / -32
    )
    assert searched < 0.97 * np.square(quantise(name, x).dequantised() - x).mean()


def test_a_product_is_rounded_before_the_sum() -> None:
    """One rounding instead of two, as a fused multiply-add has it, gives another code for the third of these."""
    extreme = np.float32(-8)
    step = extreme / np.float32(-8) * np.float32(1.1)
    rng = np.random.default_rng(0)
    x = (rng.integers(-8, 8, (4096, 32)) + np.float32(0.5)).astype(np.float32) * step
    x[:, 0] = extreme * np.float32(1.1)
    inverse = np.float32(1) / (x[:, :1] / np.float32(-8))
    fused = np.trunc(x.astype(np.float64) * inverse + 8.5).clip(0, 15)
    twice = np.trunc((x * inverse).astype(np.float32) + np.float32(8.5)).clip(0, 15)
    assert (fused != twice).any()
    found = quantise("q4_0", x).data.reshape(-1, 18)[:, 2:]
    assert np.array_equal(np.concatenate([found & 15, found >> 4], axis=1), twice)


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_rows_are_exact(name: str, data: st.DataObject) -> None:
    kind, rng = TYPES[name], np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, between = data.draw(st.integers(1, 6)), data.draw(st.lists(st.integers(1, 3), max_size=1))
    shape = (n, *between, 2 * kind.block)
    whole = quantise(name, rng.standard_normal(shape).astype(np.float32))
    order = rng.permutation(n)
    a, b = sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n))))
    assert np.array_equal(whole[order].dequantised(), whole.dequantised()[order])
    assert np.array_equal(whole.rows(a, b).dequantised(), whole.dequantised()[a:b])
    assert whole.rows(a, b).shape == (b - a, *shape[1:]) and whole.rows(a, b).data.base is not None
    assert np.array_equal(whole.reshaped(whole.size // shape[-1], shape[-1]).data, whole.data)
    assert whole.nbytes == whole.data.nbytes == kind.size(shape)


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_rows_in_any_order_are_no_copies_until_they_are_read(name: str, data: st.DataObject) -> None:
    """Row by row, whatever was taken of what: entries, stretches, other axes."""
    kind, rng = TYPES[name], np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    whole = quantise(name, rng.standard_normal((4, 3, kind.block)).astype(np.float32))
    taken, exact, start = whole, whole.dequantised(), whole.whole().copy()
    for step in data.draw(st.lists(st.sampled_from(["order", "rows", "axes"]), min_size=1, max_size=6)):
        if step == "order":
            index = rng.integers(0, len(exact), data.draw(st.integers(1, 5)))
            taken, exact = taken[index], exact[index]
        if step == "rows":
            a, b = sorted((data.draw(st.integers(0, len(exact))), data.draw(st.integers(0, len(exact)))))
            taken, exact = taken.rows(a, max(b, a + (a == 0))), exact[a : max(b, a + (a == 0))]
        if step == "axes":
            shape = (exact.size // kind.block, kind.block) if exact.ndim == 3 else (len(exact), 1, kind.block)
            taken, exact = taken.reshaped(*shape), exact.reshape(shape)
        if not exact.size:
            break
        assert np.shares_memory(taken.data, whole.data)
    assert np.array_equal(taken.dequantised(), exact) and taken.finite()
    assert taken.shape == exact.shape and taken.whole().nbytes == taken.nbytes
    assert np.array_equal(whole.whole(), start)


def test_a_memory_map_is_read_where_it_lies(tmp_path: Any) -> None:
    whole = quantise("q4_k", np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32))
    (tmp_path / "weights").write_bytes(whole.data.tobytes())
    mapped = Quantised("q4_k", whole.shape, np.memmap(tmp_path / "weights", np.uint8, "r", shape=whole.data.shape))
    assert np.array_equal(mapped.dequantised(), whole.dequantised())
    assert isinstance(mapped.rows(3, 9).data, np.memmap)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    x = np.zeros((3, 256), np.float32)
    x[1, 77] = value
    with pytest.raises(LlmspecError, match=r"^blk\.0 holds numbers that are not finite"):
        quantise(name, x, name="blk.0")


@pytest.mark.parametrize("name", sorted(set(TYPES) - {"f32"}))
@pytest.mark.parametrize("sign", [-1, 1])
def test_numbers_too_large_for_a_scale_are_refused(name: str, sign: int) -> None:
    x = np.zeros((3, 256), np.float32)
    x[1, 77] = sign * 3.4e38
    with pytest.raises(LlmspecError, match=f"too large for {name}"):
        quantise(name, x)


def test_wrong_names_and_rows_are_refused_by_name() -> None:
    with pytest.raises(LlmspecError, match=r"(?s)no type of weights is named `q4_K_M`.*q4_k"):
        quantise("q4_K_M", np.zeros((1, 256), np.float32))
    with pytest.raises(LlmspecError, match=r"tok, of shape \(2, 96\), cannot be written as q4_k.*256"):
        quantise("q4_k", np.zeros((2, 96), np.float32), name="tok")


@pytest.mark.parametrize(
    ("name", "shape", "data"),
    [
        ("q4_9", (1, 32), (1, 18)),
        ("q4_0", (1, 33), (1, 18)),
        ("q4_0", (), (1, 18)),
        ("q4_0", (2, 32), (1, 18)),
        ("q4_0", (2, 32), (36,)),
    ],
)
def test_shapes_that_do_not_fit_are_no_tensor(name: str, shape: tuple[int, ...], data: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"type|blocks|takes"):
        Quantised(name, shape, np.zeros(data, np.uint8))


def test_what_has_no_rows_gives_none() -> None:
    one = quantise("q8_0", np.zeros(64, np.float32))
    two = quantise("q8_0", np.zeros((2, 64), np.float32))
    for tensor, index in ((one, slice(0, 1)), (two, 0), (two, (0, 1, slice(None)))):
        with pytest.raises(ValueError, match="rows"):
            tensor[index]
    with pytest.raises(ValueError, match="tears apart"):
        two.reshaped(4, 32)
