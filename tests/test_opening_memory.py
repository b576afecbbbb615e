"""What opening a file of weights leaves in memory: neither its pages nor a vocabulary that was gone through."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import gguf_files
import numpy as np
import pytest

import llmspec
from llmspec.backends.backend import backend
from llmspec.backends.tensors import memory
from llmspec.core.quantised import Quantised
from llmspec.formats.gguf.tables import tables
from llmspec.parts.tokenizers import foreign_files

ROWS, LENGTH = 1 << 10, 1 << 14
LLAMA = tables()["llama"]


def pages(of: str = "File") -> int:
    """Bytes of mapped files, or of other memory (Anon), that count as this process's."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"Rss{of}:"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process holds of files")
def test_pages_of_a_mapped_file_are_let_go_and_read_again(tmp_path: Path) -> None:
    path, row = tmp_path / "weights", LENGTH // 32 * 34
    data = np.zeros((ROWS, row), np.uint8)
    data[:, ::34] = 7
    data.tofile(path)
    with open(path, "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    weight = Quantised("q8_0", (ROWS, LENGTH), np.frombuffer(memoryview(mapped), np.uint8).reshape(ROWS, row))
    before = pages()
    assert weight.finite()
    held = pages()
    assert held - before > os.path.getsize(path) // 2
    weight.let_go()
    assert held - pages() > os.path.getsize(path) // 2
    assert (weight.data[:, 0] == 7).all()
    Quantised("q8_0", (1, 32), np.zeros((1, 34), np.uint8)).let_go()  # of no file: nothing happens


def test_a_tokenizer_that_is_known_by_its_hash_is_not_gone_through_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA)
    wanted = llmspec.open(path).tokens("one two", chat=False)
    monkeypatch.setattr(foreign_files, "_is_tokenizer", lambda *_: pytest.fail("it was gone through again"))
    assert llmspec.open(path).tokens("one two", chat=False) == wanted


def test_tables_of_positions_are_held_once(tmp_path: Path) -> None:
    model = llmspec.open(gguf_files.small(tmp_path / "small.gguf", LLAMA))
    assert all(model._tables[name] is table for name, table in model.decoder.positions.tensors.items())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is as tinygrad has it")
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_what_a_cache_does_not_hold_yet_takes_no_memory(dtype: str) -> None:
    low = backend("CPU")
    before = pages("Anon")
    made = low.zeros({f"k{i}": ((64, LENGTH, 2, 8), dtype) for i in range(4)})
    places = [memory(made[name]) for name in made]
    count = sum(place.nbytes for place in places)
    assert count >= 4 * 64 * LENGTH * 16 and pages("Anon") - before < count // 16
    for place in places:
        place[3, 100:200] = 1
    assert pages("Anon") - before < count // 16
    assert all(not place[5:].any() and place.sum(dtype=np.float64) == 100 * 16 for place in places)


@pytest.mark.parametrize("device", ["CPU", "plain"])
def test_zeros_are_zeros_of_every_shape(device: str) -> None:
    low = backend("CPU", plain=device == "plain")
    shapes = {"a": ((3, 5), "float32"), "b": ((1,), "float16"), "c": ((2, 0), "int8"), "d": ((7, 2, 33), "int8")}
    for _ in range(2):  # in memory that was used before, too
        made = low.zeros(shapes)
        for name, (shape, dtype) in shapes.items():
            numbers = made[name].numpy()
            assert numbers.shape == shape and numbers.dtype.name == dtype and not numbers.any()
            if (place := memory(made[name])) is not None:
                place[...] = 1
