"""Libraries that read an export back and do not answer in time: what was written stays, and it is said who has not read
it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from test_gguf_export import model
from test_hf_folders import config, written

import llmspec
from llmspec.exchange import exporting, gguf_exporting, read_back
from llmspec.exchange.gguf_exporting import export_gguf
from llmspec.formats.hf.family import families
from llmspec.render.report_exchange import show_exported


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every library is installed, in a process of its own that really sleeps."""
    (tmp_path / "asleep.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(read_back, "SECONDS", 0.5)
    ask, there = read_back.ask, importlib.util.find_spec

    def asleep(reader: str, module: str, *rest: Any) -> Any:
        return ask(reader, "asleep", *rest)

    monkeypatch.setattr(gguf_exporting, "ask", asleep)
    monkeypatch.setattr(read_back, "ask", asleep)
    named = {"transformers", "torch", "llama_cpp"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name in named else there(name))


@pytest.mark.usefixtures("late")
def test_a_file_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = export_gguf(model(), tmp_path / "out", type="q8_0")
    assert [one.reader for one in found.compared] == ["llmspec"] and (tmp_path / "out" / "small-q8_0.gguf").exists()
    (said,) = found.unread
    assert said == "llama.cpp did not answer within 0.5s, and what it makes of small-q8_0.gguf is not known"
    show_exported(found)
    shown = capsys.readouterr().out
    assert said in shown and "not installed" not in shown


@pytest.mark.usefixtures("late")
def test_a_folder_stays(tmp_path: Path) -> None:
    written(tmp_path / "small", config(families()["llama"]))
    found = exporting.export_folder(llmspec.open(tmp_path / "small"), tmp_path / "out")
    assert found.unread == ("transformers did not answer within 0.5s, and what it makes of out is not known",)
    assert [one.reader for one in found.compared] == ["llmspec"] and llmspec.open(tmp_path / "out")


def test_the_limit_grows_with_the_file(tmp_path: Path) -> None:
    sizes = [0, read_back.A_GIB // 2, read_back.A_GIB, 4 * read_back.A_GIB]
    for number, size in enumerate(sizes):
        with open(tmp_path / f"{number}", "wb") as file:
            file.truncate(size)  # sparse
    found = [read_back.seconds(tmp_path / f"{number}") for number in range(4)]
    assert found == [read_back.SECONDS * most for most in (1, 1, 1, 4)]
    assert read_back.seconds(tmp_path) == read_back.SECONDS * 5.5
