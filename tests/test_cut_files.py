"""Files of weights that are cut while a process has them mapped: wherever their bytes are about to be read, a sentence
says so, and no signal ends the process. In a process of its own, which a missing question would end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_files
import numpy as np
import pytest
import tiny
from test_hf_folders import config, halved, written

import llmspec
from llmspec.backends.backend import backend
from llmspec.compiler.linear_layers import readable
from llmspec.core.problems import RunError
from llmspec.core.quantised import Quantised, as_float32, quantise
from llmspec.exchange.gguf_exporting import export_gguf
from llmspec.formats.bases import digest_of
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.tables import tables
from llmspec.formats.hf.family import families
from llmspec.formats.hf.weights import Files
from llmspec.formats.opening import stored_model
from llmspec.runs import tensors
from llmspec.runs.model_folder import save_model

TYPES = {"token_embd.weight": "q8_0", "blk.0.attn_q.weight": "q4_0", "blk.1.ffn_up.weight": "bf16"}
LEFT = 64
"""Bytes of a file that was cut."""
Act = Callable[[Any], object]


def model_at(kind: str, folder: Path) -> Path:
    """A new model: a GGUF file, or a folder of Hugging Face in float32 or with matrices of 16 bits."""
    if kind == "gguf":
        return gguf_files.small(folder / "small.gguf", tables()["llama"], TYPES)
    written(folder / "small", config(families()["llama"]))
    if kind == "halves":
        halved(folder / "small")
    return folder / "small"


def weights_of(path: Path) -> dict[str, Any]:
    stored = stored_model(path)
    found: dict[str, Any] = stored.weights(stored.plan())[1]
    return found


def held(path: Path, plain: bool) -> tuple[Any, Act]:
    plan = stored_model(path).plan()
    return weights_of(path), lambda weights: backend("CPU", plain).hold(weights, readable(plan.model))


def imported(path: Path) -> tuple[Any, Act]:
    stored = stored_model(path)
    plan = stored.plan()
    words = stored.tokenizer(plan).to_json()
    save: Act = lambda weights: save_model(path.parent / "out", plan, words, weights, phase="p", chat=False)
    return weights_of(path), save


def exported(path: Path) -> tuple[Any, Act]:
    model = llmspec.open(path, quantize="f32")
    return weights_of(path), lambda weights: export_gguf(model, path.parent / "out", weights=weights)


def mapped(path: Path, planned: bool = False) -> GGUFFile:
    file = GGUFFile(path)
    _ = file.plan() if planned else file.files
    return file


def rows(weights: dict[str, Any]) -> None:
    for array in weights.values():
        if isinstance(array, Quantised):
            array[[0]].whole()
        else:
            quantise("f16", array)


WAYS: dict[str, Callable[[Path], tuple[Any, Act]]] = {
    "held": lambda path: held(path, False),
    "held plainly": lambda path: held(path, True),
    "dequantised": lambda path: (weights_of(path), lambda weights: [as_float32(a) for a in weights.values()]),
    "rows": lambda path: (weights_of(path), rows),
    "hashed": lambda path: (weights_of(path), digest_of),
    "written": lambda path: (weights_of(path), lambda weights: tensors.write(path.parent / "written", weights)),
    "imported": imported,
    "exported": exported,
}
"""What is made of a model before its file is cut, and what then reads it."""
OF_SOME: dict[str, dict[str, Callable[[Path], tuple[Any, Act]]]] = {
    "gguf": {
        "saved": lambda path: (llmspec.open(path), lambda model: model.save(path.parent / "out")),
        "tokenised": lambda path: (mapped(path), lambda file: file.tokenizing),
        "loaded": lambda path: (mapped(path, True), lambda file: file.weights(file.plan())),
        "texts": lambda path: (GGUFFile(path).files.metadata, lambda said: [*said["tokenizer.ggml.tokens"]]),
        "numbers": lambda path: (GGUFFile(path).files.metadata, lambda said: [*said["tokenizer.ggml.token_type"]]),
    },
    "halves": {"saved": lambda path: (llmspec.open(path), lambda model: model.save(path.parent / "out"))},
    "float32": {"loaded": lambda path: (Files(path), lambda files: [files.float32(n).max() for n in files.entries])},
}


def cut(path: Path) -> None:
    """Cuts a model's weights where they lie."""
    os.truncate(path / "model.safetensors" if path.is_dir() else path, LEFT)


def tried(kind: str, folder: Path) -> None:
    """Goes every way, and says which ended in a sentence; in a process of its own."""
    for name, way in {**WAYS, **OF_SOME[kind]}.items():
        here = folder / name.replace(" ", "_")
        here.mkdir()
        path = model_at(kind, here)
        made, act = way(path)
        print(name, end=": ", flush=True)
        cut(path)
        try:
            act(made)
        except RunError as error:
            assert f"bytes when it was opened, and has {LEFT}" in str(error), str(error)
            assert not (here / "out").exists()
            print("refused", flush=True)


@pytest.mark.parametrize("kind", OF_SOME)
def test_a_file_that_was_cut_is_refused_wherever_it_is_read(kind: str, tmp_path: Path) -> None:
    code = f"import sys; from pathlib import Path; import test_cut_files as t; t.tried({kind!r}, Path(sys.argv[1]))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tiny.ROOT), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env, timeout=600
    )
    said = [line.partition(": ") for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.returncode} in {said[-1:]}: {done.stderr[-3000:]}"
    assert [name for name, _, end in said if end == "refused"] == [*WAYS, *OF_SOME[kind]]


def test_a_file_that_another_one_has_replaced_stays_what_it_was(tmp_path: Path) -> None:
    path = model_at("gguf", tmp_path)
    weights = weights_of(path)
    kept = {name: as_float32(array).copy() for name, array in weights.items()}
    shutil.copy(path, tmp_path / "other")
    os.truncate(tmp_path / "other", LEFT)
    os.replace(tmp_path / "other", path)
    for name, array in weights.items():
        np.testing.assert_array_equal(as_float32(array), kept[name])
