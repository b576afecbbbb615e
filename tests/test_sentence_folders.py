"""Folders of sentence-transformers: how states become one vector is read, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmspec.core.problems import RunError
from llmspec.formats.hf import sentence


def written(folder: Path, modules: list[str], pooling: dict[str, Any], **files: dict[str, Any]) -> Path:
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


MEAN = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def test_another_folder_is_none_of_these(tmp_path: Path) -> None:
    assert sentence.read(tmp_path) is None


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (MEAN, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_pooling_norm_and_length_are_the_heads(tmp_path: Path, pooling: dict[str, Any], expected: str) -> None:
    modules = ["Transformer", "Pooling", "Normalize"]
    found = sentence.read(written(tmp_path, modules, pooling, sentence_bert_config={"max_seq_length": 256}))
    assert found is not None and not found.left
    assert found.head == {"kind": "embedding", "pooling": expected, "normalised": True, "max_tokens": 256}
    bare = sentence.read(written(tmp_path, modules[:2], pooling, sentence_bert_config={}))
    assert bare is not None and bare.head == {"kind": "embedding", "pooling": expected, "normalised": False}


def test_a_prompt_that_is_not_written_is_said(tmp_path: Path) -> None:
    folder = written(
        tmp_path, ["Transformer", "Pooling"], MEAN, config_sentence_transformers={"default_prompt_name": "q"}
    )
    found = sentence.read(folder)
    assert found is not None and "(q)" in found.left[0]


@pytest.mark.parametrize(
    ("modules", "pooling", "words"),
    [
        (["Transformer", "Pooling", "Dense"], MEAN, "Dense"),
        (["Pooling"], MEAN, "has the modules Pooling"),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True}, "pools by max_tokens"),
        (["Transformer", "Pooling"], {**MEAN, "pooling_mode_cls_token": True}, "pools by"),
        (["Transformer", "Pooling"], {}, "pools by nothing"),
    ],
)
def test_what_would_make_other_vectors_is_refused(
    tmp_path: Path, modules: list[str], pooling: dict[str, Any], words: str
) -> None:
    with pytest.raises(RunError, match=words):
        sentence.read(written(tmp_path, modules, pooling))


def test_bad_files_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path, ["Transformer", "Pooling"], MEAN, sentence_bert_config={"do_lower_case": True})
    with pytest.raises(RunError, match="do_lower_case"):
        sentence.read(folder)
    for modules in ({}, [1], [{"type": 3}]):
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(RunError, match=r"modules"):
            sentence.read(folder)
    outside = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../elsewhere"}]
    (folder / "modules.json").write_text(json.dumps(outside))
    with pytest.raises(RunError, match="none beside it"):
        sentence.read(folder)
