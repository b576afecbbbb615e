"""The Python API as somebody uses it who did not read: from another folder, with what is not meant, in a pickle."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import models
import pytest
import tiny

import llmspec


def test_a_spec_loaded_from_another_folder_reads_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    file = tiny.write(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    spec = llmspec.load_spec(Path("..", "there", file.name)).spec
    assert os.path.samefile(llmspec.compile(spec).base, tmp_path / "there")
    assert llmspec.compile(spec, base="elsewhere").base == "elsewhere"
    again = llmspec.load_spec(file).spec
    assert spec == again and "folder" not in spec.dump() and "folder" not in spec.model_dump()
    assert type(spec).model_validate_json(json.dumps(spec.dump())).folder == "."
    assert spec.model_copy(update={"seed": 5}).folder == spec.folder


def test_what_is_not_meant_is_told(tmp_path: Path) -> None:
    file = tiny.write(tmp_path)
    wrong: list[tuple[Any, str]] = [
        (lambda: llmspec.run(str(file), tmp_path / "run"), "llmspec.run takes a Plan"),  # type: ignore[arg-type]
        (lambda: llmspec.compile(str(file)), "llmspec.load_spec"),  # type: ignore[arg-type]
        (lambda: llmspec.compile(llmspec.load_spec(file)), "the `spec` of"),  # type: ignore[arg-type]
        (lambda: llmspec.load_spec({"name": "x"}), "the path of its file"),  # type: ignore[arg-type]
        (lambda: llmspec.load_spec(file, {"seed": 3}), "list of texts"),  # type: ignore[arg-type]
        (lambda: llmspec.load_spec(file, [3]), "list of texts"),  # type: ignore[list-item]
        (lambda: llmspec.open(None), "path of a run or of a saved model"),  # type: ignore[arg-type]
    ]
    for call, said in wrong:
        with pytest.raises(TypeError, match=said):
            call()
    assert llmspec.load_spec(file, "seed=3").spec.seed == 3
    assert llmspec.__version__


def test_a_model_says_what_it_is_and_is_not_copied() -> None:
    model = models.opened()
    assert "LanguageModel" in repr(model) and f"{model.plan.model.vocab:,}" in repr(model)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"llmspec\.open"):
            attempt(model)
