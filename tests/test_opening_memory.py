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
from llmspec.core.quantised import Quantised
from llmspec.formats.gguf.tables import tables
from llmspec.parts.tokenizers import foreign_files

ROWS, LENGTH = 1 << 10, 1 << 14
LLAMA = tables()["llama"]


def file_pages() -> int:
    """Bytes of mapped files that count as this process's memory."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssFile:"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process holds of files")
def test_pages_of_a_mapped_file_are_let_go_and_read_again(tmp_path: Path) -> None:
    path, row = tmp_path / "weights", LENGTH // 32 * 34
    data = np.zeros((ROWS, row), np.uint8)
    data[:, ::34] = 7
    data.tofile(path)
    with open(path, "rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    weight = Quantised("q8_0", (ROWS, LENGTH), np.frombuffer(memoryview(mapped), np.uint8).reshape(ROWS, row))
    before = file_pages()
    assert weight.finite()
    held = file_pages()
    assert held - before > os.path.getsize(path) // 2
    weight.let_go()
    assert held - file_pages() > os.path.getsize(path) // 2
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
    assert all(model._tables[name] is table for name, table in model.decoder._tables.items())
