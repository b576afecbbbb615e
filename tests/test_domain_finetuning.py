"""Pretraining that goes on: of a run, a folder of transformers and a GGUF file, with text of before among the new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import llmspec
from llmspec.core.problems import SpecError
from llmspec.exchange.exporting import export_folder
from llmspec.exchange.gguf_exporting import export_gguf
from llmspec.exchange.importing import import_folder
from llmspec.explain.beside import replayed
from llmspec.explain.phases import phase_reports

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "red", "hen", "run"]
TRADES = ["hull", "keel", "mast", "sail", "helm", "bow", "stern", "deck", "rope", "tide", "port", "wake"]

MODEL = """\
model:
  context: 32
  d_model: 16
  layers: 2
  attention: {heads: 2}
  mlp: {kind: swiglu, d_ff: 32}
tokenizer: {kind: bpe, vocab: 280}
"""
TEXTS = """\
name: mine
seed: 3
device: CPU
data:
  sources:
    general: {kind: files, path: general.txt, validation: tail 10%, max_epochs: 1000, license: mine}
    ships: {kind: files, path: ships.txt, validation: tail 10%, max_epochs: 1000, license: mine}
phases:
"""
BASE = """\
  base:
    kind: pretrain
    mixture: {general: 100%}
    budget: 30 steps
    micro_batch_size: 4
    optimizer: {kind: adamw, lr: 1e-2}
    evaluate_every: 100%
"""
DOMAIN = """\
  domain:
    kind: pretrain
    from: FROM
    mixture: {ships: 75%, general: 25%}
    budget: 12 steps
    micro_batch_size: 4
    optimizer: {kind: adamw, lr: 3e-3}
    freeze: [embed_tokens.*]
    unfreeze: {"layers.0.*": 50%}
    evaluate_every: 6 steps
    sample_every: 100%
"""


def sentences(words: list[str]) -> str:
    return "\n\n".join(" ".join(words[(i * (j + 3) + j * j) % 12] for j in range(9)) + "." for i in range(120))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one phase, and the same model as a folder of transformers, as a GGUF file, and imported of these."""
    place = tmp_path_factory.mktemp("domain")
    (place / "general.txt").write_text(sentences(WORDS), "utf-8")
    (place / "ships.txt").write_text(sentences(TRADES), "utf-8")
    llmspec.run(plan(place, TEXTS + BASE + MODEL), place / "run")
    model = llmspec.open(place / "run")
    export_folder(model, place / "hf")
    export_gguf(model, place / "gguf", type="f32", text=place / "general.txt")
    (file,) = (place / "gguf").glob("*.gguf")
    file.rename(place / "model.gguf")
    for name in ("hf", "model.gguf"):
        import_folder(place / name, place / f"of-{name}")
    return place


def plan(place: Path, text: str, name: str = "spec.yaml") -> Any:
    (place / name).write_text(text, "utf-8")
    return llmspec.compile(llmspec.load_spec(place / name).spec, base=str(place))


def validations(run: Path) -> list[dict[str, float]]:
    """Nats a token by source, at each validation of the phase."""
    rows = [json.loads(line) for line in (run / "domain" / "metrics.jsonl").read_text().splitlines()]
    return [
        {m["source"]: m["value"] for m in row["validation"] if (m["name"], m.get("unit")) == ("loss", "nats/token")}
        for row in rows
        if "validation" in row
    ]


@pytest.mark.parametrize("start", ["run", "hf", "model.gguf"])
def test_each_start_learns_the_domain(start: str, place: Path, tmp_path: Path) -> None:
    own = MODEL.replace("{kind: bpe, vocab: 280}", '{kind: huggingface, file: run/tokenizer.json, eos: "<|end|>"}')
    head = own if start == "run" else f"extends: of-{start}/spec.yaml\n"
    spec = head + TEXTS + DOMAIN.replace("FROM", f"{{model: {start}}}")
    llmspec.run(plan(place, spec, f"{start}.yaml"), tmp_path / "run")
    before, after = llmspec.open(place / "run"), llmspec.open(tmp_path / "run")
    old, new = before.weights(), after.weights()
    assert old.keys() == new.keys()
    for name, array in old.items():
        assert (new[name] == array).all() == name.startswith("embed_tokens."), name
    held_out = validations(tmp_path / "run")
    assert held_out[-1]["ships"] < held_out[0]["ships"]
    ids = np.arange(8).reshape(1, 8) + 40
    assert np.abs(before.logits(ids) - after.logits(ids)).max() > 1e-3
    whole = after.plan
    assert [share.tokens_read for share in whole.phase("domain").shares] == [1152, 384]
    assert replayed(whole, whole.phase("domain")) == (), (
        "what it has read before is not known of a model that was there"
    )


def test_what_is_replayed_is_said_with_its_numbers(place: Path, tmp_path: Path) -> None:
    made = plan(place, MODEL + TEXTS + BASE + DOMAIN.replace("FROM", "base"), "both.yaml")
    base, domain = phase_reports(made)
    assert base.replayed == () and domain.replayed == ("replays general, which base read: 25% of the tokens",)
    llmspec.run(made, tmp_path / "run")
    told = tiny.call("explain", tmp_path / "run")
    said = " ".join(told.stdout.split())
    assert told.returncode == 0 and "replays general, which base read: 384 of 1,536 tokens" in said, said


def test_the_hint_of_another_tokenizer_takes_that_of_the_model(place: Path, tmp_path: Path) -> None:
    """What the hint says is what `run` above starts with."""
    with pytest.raises(SpecError) as error:
        llmspec.run(plan(place, MODEL + TEXTS + DOMAIN.replace("FROM", "{model: run}"), "other.yaml"), tmp_path / "run")
    (problem,) = error.value.problems
    assert '{kind: huggingface, file: run/tokenizer.json, eos: "<|end|>"}' in problem.hint
