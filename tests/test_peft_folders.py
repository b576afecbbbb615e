"""PEFT's folders: written of an adapter, opened beside their model, merged; and what is wrong with them, said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_hf_folders import config, written

import llmspec
from llmspec.api_runs import exported
from llmspec.core.problems import LlmspecError, RunError
from llmspec.core.weight_types import TYPES
from llmspec.exchange.held_out import few_bits
from llmspec.exchange.importing import import_folder
from llmspec.exchange.merging import MERGED, merge
from llmspec.formats.hf.family import families
from llmspec.formats.peft import CONFIG, WEIGHTS, targets
from llmspec.runs import tensors
from llmspec.training.callbacks import Recorder

SPEC = """\
extends: {{model: {theirs}}}
name: adapted
device: CPU
data:
  sources:
    text: {{kind: inline, documents: ["a text of words, and more of them, so that a row is full", "and one more text"],
           validation: tail 50%, license: mine, max_epochs: 100}}
model: {{context: 16}}
phases:
  more:
    kind: pretrain
    from: {{model: {theirs}}}
    adapter: {{kind: lora, r: 2, alpha: 3, rslora: true, dora: {dora}, targets: {targets}}}
    mixture: {{text: 100%}}
    budget: 2 steps
    micro_batch_size: 1
    optimizer: {{kind: adamw, lr: 0.05}}
"""
IDS = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`theirs`, a folder of transformers; `run`, an adapter of all of its layers; `peft`, that as PEFT has it."""
    place = tmp_path_factory.mktemp("peft")
    written(place / "theirs", config(families()["llama"]))
    train(place, "run", dora=True)
    exported(place / "run", llmspec.open(place / "run"), place / "peft", to="peft")
    return place


def train(place: Path, name: str, dora: bool = False, targets: str = "['layers.*']") -> None:
    path = place / f"{name}.yaml"
    path.write_text(SPEC.format(theirs=place / "theirs", dora=str(dora).lower(), targets=targets))
    llmspec.run(llmspec.compile(llmspec.load_spec(path).spec), place / name, watcher=Recorder())


def test_it_says_what_peft_reads(place: Path) -> None:
    said = json.loads((place / "peft" / CONFIG).read_text())
    assert said["peft_type"] == "LORA" and said["task_type"] == "CAUSAL_LM" and said["bias"] == "none"
    assert (said["r"], said["lora_alpha"], said["use_rslora"], said["use_dora"]) == (2, 3.0, True, True)
    assert said["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert said["base_model_name_or_path"] == str(place / "theirs")
    with open(place / "peft" / WEIGHTS, "rb") as f:
        names = set(tensors.table(f))
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector" in names
    assert len(names) == 3 * 7 * llmspec.open(place / "run").plan.model.layers


def test_it_opens_as_the_run_does_and_merges(place: Path, tmp_path: Path) -> None:
    own, again = llmspec.open(place / "run"), llmspec.open(place / "peft")
    bare = llmspec.open(place / "theirs").logits(IDS)
    assert np.abs(own.logits(IDS) - bare).max() > 1e-3, "something was learned"
    assert np.abs(own.logits(IDS) - again.logits(IDS)).max() <= 1e-5 * np.abs(bare).max()
    merge(place / "peft", tmp_path / "merged")
    assert np.abs(llmspec.open(tmp_path / "merged").logits(IDS) - own.logits(IDS)).max() <= 1e-4 * np.abs(bare).max()


@pytest.mark.parametrize("type", MERGED)
def test_four_bits_are_not_merged_unmeasured(place: Path, tmp_path: Path, type: str) -> None:
    """A folder of PEFT has no validation text."""
    out, text = tmp_path / "merged", tmp_path / "text.txt"
    text.write_text("Some words that nobody has trained on. " * 40)
    if few_bits(type) and any(TYPES[type].fits(t.shape) for t in llmspec.open(place / "peft").plan.model.tensors):
        with pytest.raises(LlmspecError, match=rf"what {type} costs cannot be measured: the model has no run"):
            merge(place / "peft", out, type)
        assert not out.exists()
    else:
        assert merge(place / "peft", out, type).learned is None
    found = merge(place / "peft", tmp_path / "by text", type, text=text)
    assert found.learned is not None and found.learned.text == str(text) and found.learned.tokens > 100


def test_target_modules_are_words_where_all_layers_of_them_are_adapted() -> None:
    every = [f"model.layers.{i}.{leaf}" for i in (0, 1) for leaf in ("q", "k")]
    assert targets([every[0], every[2]], every) == ["q"]
    assert targets([every[0]], every) == ["model.layers.0.q"]


def broken(place: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(place / "peft", folder)
    said = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**said, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "only LORA is read"),
        ({"bias": "all"}, "biases beside an adapter are not read"),
        ({"rank_pattern": {"q_proj": 4}}, "`rank_pattern` is not understood"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` is not understood"),
        ({"base_model_name_or_path": "of/nobody"}, "no model on this machine"),
        ({"base_model_name_or_path": None}, "no model on this machine"),
        ({"r": 3}, "is not what adapter_config.json says"),
        ({"r": "3"}, "r: "),
    ],
)
def test_what_is_not_understood_is_named(place: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        llmspec.open(broken(place, tmp_path / "broken", **changes))


def test_tensors_of_other_layers_are_named(place: Path, tmp_path: Path) -> None:
    folder = broken(place, tmp_path / "broken")
    (folder / WEIGHTS).unlink()
    tensors.write(folder / WEIGHTS, {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": np.zeros((2, 24))})
    with pytest.raises(RunError, match=r"adapts what .* has not: base_model.model.model.layers.9"):
        llmspec.open(folder)


def test_a_model_without_an_adapter_is_no_folder_of_peft(place: Path, tmp_path: Path) -> None:
    import_folder(place / "theirs", tmp_path / "ours")
    with pytest.raises(LlmspecError, match="has no adapter"):
        exported(tmp_path / "ours", llmspec.open(tmp_path / "ours"), tmp_path / "out", to="peft")
    assert not (tmp_path / "out").exists()
