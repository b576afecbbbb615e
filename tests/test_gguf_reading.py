"""What stands before the numbers of a GGUF file: read as the library `gguf` reads it, and refused where it is damaged,
by name and place, at once."""

from __future__ import annotations

import struct
import time
import tracemalloc
from decimal import Decimal
from pathlib import Path

import gguf_files
import pytest
from gguf import GGUFReader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmspec.core.problems import LlmspecError, RunError
from llmspec.formats.gguf.files import Files
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.reading import read_header, shortest
from llmspec.formats.gguf.tables import tables

MIXED = {"blk.0.attn_q.weight": "q8_0", "blk.1.ffn_up.weight": "q4_0", "token_embd.weight": "f16"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_files.small(tmp_path_factory.mktemp("gguf") / "small.gguf", tables()["llama"], MIXED)


def test_metadata_and_tensors_are_those_that_the_library_reads(path: Path) -> None:
    ours, theirs = read_header(path), GGUFReader(path)
    for key, value in ours.metadata.items():
        wanted = theirs.fields[key].contents()
        assert (list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else value) == pytest.approx(
            wanted
        ), key
    assert set(theirs.fields) - set(ours.metadata) == {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    for tensor in theirs.tensors:
        entry = ours.tensors[tensor.name]
        assert entry.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (entry.type, entry.start, entry.size) == (
            tensor.tensor_type.name.lower(),
            int(tensor.data_offset),
            int(tensor.n_bytes),
        )


def digits(number: float) -> int:
    """Of a number as it is written down, but for zeros behind."""
    return len(Decimal(repr(number)).normalize().as_tuple().digits)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(999999986991104.0)  # 1e15, which Python writes with more zeros than that has digits
def test_a_number_of_fewest_digits_is_the_same_in_float32(number: float) -> None:
    assert struct.pack("<f", shortest(number)) == struct.pack("<f", number)
    assert digits(shortest(number)) <= digits(number)


# -- damage ------------------------------------------------------------------------------------------------------------
HEADER = struct.Struct("<4sIQQ")


def said(raw: bytes, folder: Path) -> str:
    """What is said of a file of these bytes; '' where it opens."""
    path = folder / "damaged.gguf"
    path.write_bytes(raw)
    try:
        read_header(path)
    except RunError as error:
        return error.problems[0].message
    return ""


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        ((b"GGML", 3, 0, 0), "begins with b'GGML'"),
        ((b"GGUF", 1, 0, 0), "version 1 of the format"),
        ((b"GGUF", 3 << 24, 0, 0), "big-endian"),
        ((b"GGUF", 3, 1 << 60, 0), "tensors, more than it can hold"),
        ((b"GGUF", 3, 0, 1 << 60), "keys, more than it can hold"),
    ],
)
def test_a_header_of_something_else_is_named(header: tuple[bytes, int, int, int], meant: str, tmp_path: Path) -> None:
    assert meant in said(HEADER.pack(*header) + bytes(64), tmp_path)


def key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return (
        struct.pack("<Q", len(name))
        + name.encode()
        + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    )


@pytest.mark.parametrize(
    ("keys", "tensors", "meant"),
    [
        ([key("a", 8, struct.pack("<Q", 1 << 62))], [], "are read at most"),
        ([key("a", 8, struct.pack("<Q", 3) + b"\xff\xfe\xfd")], [], "not UTF-8"),
        ([key("a", 9, struct.pack("<IQ", 4, 1 << 61))], [], "items, more than it can hold"),
        ([key("a", 9, struct.pack("<IQ", 8, 3) + struct.pack("<Q", 1 << 40) + bytes(40))], [], "ends within text 0"),
        ([key("a", 9, struct.pack("<IQ", 9, 1) + bytes(12))], [], "array of arrays"),
        ([key("a", 9, struct.pack("<IQ", 7, 2) + b"\x00\x05")], [], "neither true nor false"),
        ([key("a", 7, b"\x02")], [], "neither true nor false"),
        ([key("a", 6, struct.pack("<f", float("nan")))], [], "no finite number"),
        ([key("a", 77, bytes(8))], [], "of type 77, which there is not"),
        ([key("a", 4, bytes(4)), key("a", 4, bytes(4))], [], "there twice"),
        ([key("general.alignment", 4, struct.pack("<I", 3))], [tensor("t", (32,), 0, 0)], "power of two"),
        ([], [tensor("t", (32,), 10, 0)], "of type q2_k, which is not read here"),
        ([], [tensor("t", (32,), 99, 0)], "of type 99, which there is not"),
        ([], [tensor("t", (33,), 8, 0)], "blocks of 32"),
        ([], [tensor("t", (0,), 0, 0)], "impossible shape"),
        ([], [tensor("t", (1 << 50,), 0, 0)], "impossible shape"),
        ([], [tensor("t", (), 0, 0)], "axes"),
        ([], [tensor("t", (1 << 40, 1 << 20), 0, 0)], "cut short"),
        ([], [tensor("t", (8,), 0, 0), tensor("t", (8,), 0, 32)], "there twice"),
        ([], [tensor("a", (8,), 0, 0), tensor("b", (8,), 0, 16)], "those before it end at 32"),
        ([], [tensor("a", (8,), 0, 0), tensor("b", (8,), 0, 64)], "those before it end at 32"),
        ([], [tensor("n" * 65, (8,), 0, 0)], "64 are read at most"),
    ],
)
def test_what_cannot_be_is_named(keys: list[bytes], tensors: list[bytes], meant: str, tmp_path: Path) -> None:
    raw = HEADER.pack(b"GGUF", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    message = said(raw + bytes(-len(raw) % 32) + bytes(64), tmp_path)
    assert meant in message
    assert "damaged.gguf" in message


def test_bytes_behind_the_last_tensor_are_named(path: Path, tmp_path: Path) -> None:
    assert "belong to none" in said(path.read_bytes() + bytes(100), tmp_path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_is_refused_in_words(
    path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = path.read_bytes()
    end = data.draw(st.one_of(st.integers(0, read_header(path).end), st.integers(0, len(raw) - 33)))
    assert said(raw[:end], tmp_path_factory.getbasetemp())


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_changed_bytes_of_a_header_end_in_words_soon_and_without_memory(
    path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw, end = bytearray(path.read_bytes()), read_header(path).end
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, end - 9))
        new = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8), st.just(bytes(8))))
        raw[at : at + len(new)] = new
    file = tmp_path_factory.getbasetemp() / "changed.gguf"
    file.write_bytes(raw)
    begun = time.perf_counter()
    tracemalloc.start()
    try:
        opened = GGUFFile(file)
        opened.weights(opened.plan())
        opened.tokenizer(opened.plan())
    except LlmspecError as error:
        for problem in error.problems:
            assert 0 < len(problem.message) < 2000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20
    assert time.perf_counter() - begun < 20


def test_a_file_that_became_shorter_is_refused_before_it_is_read(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "short.gguf"
    file.write_bytes(path.read_bytes())
    files = Files(file)
    with open(file, "r+b") as f:
        f.truncate(file.stat().st_size - 4096)
    with pytest.raises(RunError, match="when it was opened"):
        files.quantised("output_norm.weight")
