"""A run that learns which texts belong together, and what cannot be learned so: refused, or said, before step 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import llmspec
from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError, LlmspecError, SpecError
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.spec import load_spec

SPEC = """\
name: near
seed: 7
device: CPU
model:
  context: 64
  d_model: 32
  layers: 1
  position: {kind: rope}
  attention: {heads: 2}
  mlp: {kind: swiglu, d_ff: 48}
  mask: {kind: MASK}
tokenizer: {kind: byte}
data:
  sources:
    facts:
      kind: files
      path: facts.jsonl
      validation: hash 20%
      max_epochs: 1000
      source: "{q}"
      target: "{a}"
phases:
  near:
    kind: contrastive
    mixture: {facts: 100%}
    budget: 60 steps
    micro_batch_size: 16
    objective: {temperature: 0.1}
    optimizer: {kind: adamw, lr: 1e-2}
    evaluate_every: 30 steps
    checkpoint_every: 30 steps
    sample_every: 60 steps
"""
"""The small twin of specs/embed.yaml."""
COLOURS = {"red": "rot", "blue": "blau", "green": "gruen", "white": "weiss", "black": "schwarz"}
THINGS = {"cat": "Katze", "dog": "Hund", "hen": "Henne", "cow": "Kuh", "fox": "Fuchs", "ant": "Ameise", "bee": "Biene"}


def written(folder: Path, *more: dict[str, Any], mask: str = "bidirectional", spec: str = SPEC) -> Path:
    lines = [{"q": f"{c} {t}", "a": f"{THINGS[t]} {COLOURS[c]}"} for c in COLOURS for t in THINGS]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, [*lines, *more])))
    return tiny.write(folder, spec.replace("MASK", mask))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near")
    done = tiny.call("run", written(folder), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "recall@1" in done.stdout and "→" in done.stdout and "llmspec embed" in done.stdout
    return folder / "run"


def test_it_learns_and_embeds(run: Path) -> None:
    """Pairs that were held out are found, by words that were seen apart."""
    rows = [json.loads(line) for line in (run / "near/metrics.jsonl").read_text().splitlines()]
    last = {m["name"]: m["value"] for m in [row for row in rows if "validation" in row][-1]["validation"]}
    assert last["recall@1"] >= 0.5 and last["pair cosine"] > last["other cosine"] + 0.3
    model = llmspec.open(run)
    found = model.embed(["red dog", "Hund rot", "Kuh blau", "blue cow"]).vectors
    cosines = found @ found.T
    assert np.allclose(np.diag(cosines), 1, atol=1e-5)
    assert cosines[0, 1] > cosines[0, 2] and cosines[3, 2] > cosines[3, 1]
    with pytest.raises(LlmspecError, match="makes vectors of texts"):
        model.generate("red")
    said = tiny.call("sample", run, "--prompt", "red")
    assert said.returncode and "llmspec embed" in said.stderr and "Traceback" not in said.stderr
    said = tiny.call("explain", run)
    assert "recall@1" in said.stdout and "other cosine" in said.stdout


@pytest.mark.parametrize(
    ("change", "path", "said", "hint"),
    [
        ("model.mask={kind: prefix}", ("phases", "near", "kind"), "has a prefix", "causal or bidirectional"),
        ("model.encoder={layers: 1, context: 8}", ("phases", "near", "kind"), "an encoder and a decoder", ""),
        ("data.sources.facts.target=null", ("data", "sources", "facts"), "half a pair", ""),
        ("phases.near.objective={head: lm}", ("phases", "near", "objective", "head"), "every token", "leave `head:`"),
        ("phases.near.heads={embedding: {kind: classes, classes: 2}}", ("phases", "near", "objective"), "vector", ""),
        ("phases.near.objective={kind: cross_entropy}", ("phases", "near", "objective"), "predicts the next", ""),
        ("phases.near.objective={temperature: 0}", ("phases", "near", "objective", "temperature"), "", ""),
        ("phases.near.objective={temprature: 1}", ("phases", "near", "objective", "temprature"), "", "temperature"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_so_is_refused(
    change: str, path: tuple[Any, ...], said: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as refused:
        compile_spec(load_spec(written(tmp_path), [change]).spec)
    found = [p for p in refused.value.problems if p.path[: len(path)] == path]
    assert any(said in p.message and hint in p.hint for p in found), refused.value.problems


def test_a_source_of_plain_text_and_a_pass_of_one_pair_are_refused(tmp_path: Path) -> None:
    plain = SPEC.replace('source: "{q}"', 'text: "{q}"').replace('      target: "{a}"\n', "")
    with pytest.raises(SpecError, match="plain text alone"):
        compile_spec(load_spec(written(tmp_path, spec=plain)).spec)
    one = ["phases.near.micro_batch_size=1", "model.context=31", "phases.near.gradient_accumulation_steps=9"]
    with pytest.raises(SpecError, match="holds one pair"):
        compile_spec(load_spec(written(tmp_path), one).spec)
    long = ["phases.near.micro_batch_size=1", 'data.sources.facts.source="{q} {q} {q}: {q} {q}"']
    with pytest.raises(DataError, match=r"1\.0 pairs on average"):
        prepare(compile_spec(load_spec(written(tmp_path), long).spec))


def test_what_pairs_lack_is_counted_and_said(tmp_path: Path) -> None:
    more = [{"q": "", "a": "leer"}, {"q": "alone"}, {"q": "red cat", "a": "Mieze"}]
    told = " ".join(notices(prepare(compile_spec(load_spec(written(tmp_path, *more)).spec))))
    assert "its source" in told and "its target" in told and "facts.jsonl:36" in told
    assert "have a source that an earlier one has, too" in told and "no negatives" in told
    more += [{"q": f"number {i}", "a": ""} for i in range(9)]
    with pytest.raises(DataError, match=r"(?s)its target.*max_dropped"):
        prepare(compile_spec(load_spec(written(tmp_path, *more)).spec))
    with pytest.raises(DataError, match="too long"):
        prepare(compile_spec(load_spec(written(tmp_path), ["phases.near.max_tokens=10"]).spec))
