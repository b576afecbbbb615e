"""Runs that learn from answers which are preferred, or good or bad; what cannot be learned so is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

import llmspec
from llmspec.compiler import compile_spec
from llmspec.core.problems import SpecError
from llmspec.explain.run import explain_run
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training import other_models

SETTINGS = "micro_batch_size: 8, optimizer: {kind: adamw, lr: 1e-3}, evaluate_every: 15 steps, sample_every: 100%"
SPEC = f"""\
name: answers
seed: 7
device: CPU
model:
  context: 64
  d_model: 32
  layers: 1
  position: {{kind: rope}}
  attention: {{heads: 2}}
  mlp: {{kind: swiglu, d_ff: 48}}
tokenizer: {{kind: byte}}
data:
  sources:
    said:
      kind: files
      path: said.jsonl
      max_epochs: 1000
      max_dropped: 60%
      dialogue: {{user: "{{q}}", assistant: "{{a}}"}}
    pairs: {{kind: files, path: pairs.jsonl, max_epochs: 1000, validation: hash 25%}}
    thumbs: {{kind: files, path: thumbs.jsonl, max_epochs: 1000, validation: hash 25%}}
phases:
  sft:
    kind: sft
    mixture: {{said: 100%}}
    budget: 150 steps
    micro_batch_size: 8
    optimizer: {{kind: adamw, lr: 1e-2}}
    sample_every: 0%
  dpo: {{kind: dpo, from: sft, mixture: {{pairs: 100%}}, budget: 30 steps, {SETTINGS}}}
  kto: {{kind: kto, from: sft, mixture: {{thumbs: 100%}}, budget: 30 steps, {SETTINGS}}}
decoding: {{temperature: 0, max_tokens: 12}}
"""
"""A policy learns to end its answers with `!` or `?`, as often the one as the other, and then that `!` is preferred."""
NAMED = f"""\
phases:
  named: {{kind: dpo, from: dpo, reference: sft, mixture: {{pairs: 100%}}, budget: 2 steps, {SETTINGS}}}
  lora: {{kind: dpo, from: sft, adapter: {{kind: lora, r: 2}}, mixture: {{pairs: 100%}}, budget: 2 steps, {SETTINGS}}}
"""
"""A phase that names its reference, and one with an adapter."""
COLOURS = ("red", "blue", "green", "white", "black")
THINGS = ("cat", "dog", "hen", "cow", "fox", "ant", "bee")


def written(folder: Path, spec: str = SPEC) -> Path:
    asked = [f"{c} {t}" for c in COLOURS for t in THINGS]
    files = {
        "said": [{"q": q, "a": f"{q}{end}"} for q in asked for end in "!?"],
        "pairs": [{"prompt": q, "chosen": f"{q}!", "rejected": f"{q}?"} for q in asked],
        "thumbs": [{"prompt": q, "completion": f"{q}{end}", "label": end == "!"} for q in asked for end in "!?"],
    }
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return tiny.write(folder, spec)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    done = tiny.call("run", written(folder), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "log-probabilities of answers by the reference" in done.stdout + done.stderr
    return folder / "run"


def rows(run: Path, phase: str) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """(rows of steps, metrics of each validation by name)."""
    lines = [json.loads(line) for line in (run / phase / "metrics.jsonl").read_text().splitlines()]
    found = [{m["name"]: m["value"] for m in line["validation"]} for line in lines if "validation" in line]
    return [line for line in lines if "validation" not in line], found


def test_it_prefers_on_held_out_pairs_what_it_learned_to_prefer(run: Path) -> None:
    steps, validated = rows(run, "dpo")
    assert steps[0]["loss"] == pytest.approx(math.log(2), rel=1e-5), "the policy is its own reference"
    assert abs(steps[0]["rewards/margins"]) < 1e-4
    assert validated[-1]["rewards/accuracies"] == 1 and validated[-1]["loss"] < validated[0]["loss"] < math.log(2)
    assert validated[-1]["rewards/margins"] > validated[0]["rewards/margins"] > 0.05
    samples = [json.loads(line) for line in (run / "dpo/samples.jsonl").read_text().splitlines()]
    assert "chosen: " in samples[0]["text"] and "log-ratio" in samples[0]["text"]
    answers = [s["text"] for s in samples if s["finish_reason"] != "compared"]
    assert len(answers) == 3 and all("!" in a and "?" not in a for a in answers)
    assert "rewards/margins" in str(explain_run(RunFolder.open(run)).phases[1])


def test_what_was_taught_by_answers_answers_dialogues(run: Path) -> None:
    """It is asked as it was taught: in the form of the chat template."""
    asked = [row["prompt"] for row in map(json.loads, (run / "dpo/samples.jsonl").read_text().splitlines())]
    for phase in ("sft", "dpo", "kto"):
        model = llmspec.open(run, phase=phase)
        assert model.chat, phase
        assert model.tokens(asked[0]) == model.tokens([("user", asked[0])]) != model.tokens(asked[0], chat=False)


def test_thumbs_alone_come_to_a_good_share_of_the_gain(run: Path) -> None:
    steps, validated = rows(run, "kto")
    assert steps[0]["loss"] == pytest.approx(0.5, rel=1e-5) and steps[0]["kl"] < 1e-4
    gain = rows(run, "dpo")[1][-1]["rewards/margins"]
    assert validated[-1]["rewards/margins"] >= 0.6 * gain
    kept = load_file(sorted((run / "kto").glob("step_*"))[-1] / "task.safetensors")
    assert kept["reference_kl"].shape == (30,) and (kept["reference_kl"] < 0).all()


@pytest.mark.nightly
def test_a_reference_is_the_model_that_is_named_or_the_one_without_its_adapter(run: Path, tmp_path: Path) -> None:
    """The first weights of dpo and lora, and the reference that is named, are all those of sft."""
    more = SPEC.replace("phases:\n", NAMED)
    shutil.copytree(run, tmp_path / "run")
    done = tiny.call("run", written(tmp_path, more), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    tables = [
        load_file(sorted((run / name).glob("step_*"))[-1] / "task.safetensors") for name in ("dpo", "named", "lora")
    ]
    for name, own in tables[0].items():
        assert np.isfinite(own).all() and (own < 0).all() and own.shape[1] == 2
        for other in (table[name] for table in tables[1:]):  # two steps read some pairs alone
            asked = other != 0
            assert asked[:, 0].sum() >= 5 and other[asked] == pytest.approx(own[asked], rel=1e-5)
    assert rows(run, "named")[0][0]["rewards/margins"] > 0.05, "the policy is not its own reference there"


BROKEN = [
    ("phases.dpo.from=null", ("phases", "dpo", "from"), "starts from none", "kind sft"),
    ("phases.kto.from=null", ("phases", "kto", "from"), "starts from none", "kind sft"),
    ("phases.dpo.reference=sfd", ("phases", "dpo", "reference"), "no phase is called", "sft"),
    ("phases.dpo.objective={reference_free: true}", ("phases", "dpo", "reference"), "no reference", "leave it"),
    ("phases.dpo.objective={loss: hinge, label_smoothing: 0.1}", ("phases", "dpo", "objective"), "does nothing", ""),
    ("phases.dpo.objective={loss: robust}", ("phases", "dpo", "objective"), "`loss: sigmoid`", ""),
    ("phases.dpo.objective={kind: kto}", ("phases", "dpo", "objective"), "which answers are good", "kto"),
    ("phases.dpo.objective={beta: 0}", ("phases", "dpo", "objective", "beta"), "", ""),
    ("phases.dpo.document_mask=false", ("phases", "dpo", "document_mask"), "never see each other", ""),
    ("phases.sft.objective={kind: dpo}", ("phases", "sft", "objective"), "preferred", ""),
    ("model.mask={kind: bidirectional}", ("phases", "dpo", "objective"), "next token", ""),
    ("model.mask={kind: prefix}", ("phases", "dpo", "kind"), "prefix", ""),
]  # fmt: skip


@pytest.mark.parametrize(("change", "path", "said", "hint"), BROKEN)
def test_what_cannot_be_trained_so_is_refused(
    change: str, path: tuple[Any, ...], said: str, hint: str, tmp_path: Path
) -> None:
    sets = [change, *(["phases.dpo.reference=sft"] if "reference_free" in change else [])]
    with pytest.raises(SpecError) as refused:
        compile_spec(load_spec(written(tmp_path), sets).spec)
    found = [p for p in refused.value.problems if p.path[: len(path)] == path]
    assert any(said in p.message and hint in p.hint for p in found), refused.value.problems


def test_a_reference_of_another_vocabulary_is_refused(run: Path, tmp_path: Path) -> None:
    sets = [f"phases.dpo.reference={{model: {run}}}", "tokenizer={kind: char, vocab: 90}"]
    with pytest.raises(SpecError, match="vocabulary") as refused:
        other_models.closed(compile_spec(load_spec(written(tmp_path), sets).spec))
    assert refused.value.problems[0].path == ("phases", "dpo", "reference")
