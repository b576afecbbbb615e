"""A run that learns labels: it tells them, goes on where it was stopped, shows what was taken for what, and answers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import tiny

import llmspec
from llmspec.core.problems import LlmspecError
from llmspec.data.prepare import prepare
from llmspec.runs import checkpoint

SPEC = """\
name: told
seed: 7
device: CPU
model:
  context: 64
  d_model: 16
  layers: 1
  position: {kind: rope}
  attention: {heads: 2}
  mlp: {kind: swiglu, d_ff: 32}
  mask: {kind: MASK}
  dropout: 0.1
tokenizer: {kind: byte}
data:
  sources:
    facts:
      kind: files
      path: facts.jsonl
      validation: "hash 20% by {q}"
      max_epochs: 50
      text: "{q}"
      label: "{a}"
phases:
  told:
    kind: classify
    mixture: {facts: 100%}
    budget: 80 steps
    micro_batch_size: 8
    gradient_accumulation_steps: 2
    class_weights: balanced
    optimizer: {kind: adamw, lr: 2e-2}
    checkpoint_every: 7 steps
    evaluate_every: 40 steps
    sample_every: 40 steps
    prompts: ["it is good 5"]
"""
WORDS = {"good": "fresh", "nice": "fresh", "bad": "rotten", "poor": "rotten", "awful": "rotten"}


def written(folder: Path, mask: str) -> Path:
    lines = [{"q": f"it is {word} {i // 5}", "a": WORDS[word]} for i, word in enumerate([*WORDS] * 30)]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tiny.write(folder, SPEC.replace("MASK", mask))


@pytest.fixture(scope="module", params=["bidirectional", "causal"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(spec, run directory) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("told")
    spec = written(folder, request.param)
    done = tiny.call("run", spec, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout and "→ fresh" in done.stdout
    return spec, folder / "run"


def test_it_learns_and_answers(straight: tuple[Path, Path]) -> None:
    model = llmspec.open(straight[1])
    assert model.labels == ("fresh", "rotten") and model.tells_labels
    found = model.classify_batch(["it is nice 1", "it is awful 2", "it is poor 3"])
    assert [one.label for one in found] == ["fresh", "rotten", "rotten"]
    assert all(sum(c.probability for c in one.labels) == pytest.approx(1) for one in found)
    alone = model.classify("it is awful 2")
    assert alone.label == "rotten" and alone.labels[0].probability == pytest.approx(
        found[1].labels[0].probability, abs=1e-5
    )
    with pytest.raises(LlmspecError, match="draws no text"):
        model.generate("it is")
    said = tiny.call("sample", straight[1], "--classify", "--prompt", "it is bad 1", "--json")
    assert json.loads(said.stdout)["texts"][0]["labels"] == ["rotten"]


def test_it_is_explained(straight: tuple[Path, Path]) -> None:
    said = tiny.call("explain", straight[1])
    assert said.returncode == 0, said.stderr
    assert "labels of facts, at step 80" in said.stdout and "is \\ said" in said.stdout
    report = json.loads(tiny.call("explain", straight[1], "--json").stdout)
    (labels,) = report["phases"][0]["labels"]
    assert [score["label"] for score in labels["scores"]] == ["fresh", "rotten"]
    assert sum(score["texts"] for score in labels["scores"]) == sum(n for _, _, n in labels["confusion"])
    accuracy = [m for m in report["phases"][0]["validation"][0]["scores"][-1]["metrics"] if m["name"] == "accuracy"]
    assert accuracy[0]["value"] > 0.9


def test_a_killed_run_goes_on_bit_for_bit(straight: tuple[Path, Path], tmp_path: Path) -> None:
    spec, whole = straight
    out, env = tmp_path / "run", {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(tiny.command("run", spec, "--out", out), env=env, **quiet)
    rows = out / "told" / "metrics.jsonl"
    while process.poll() is None and (not rows.is_file() or rows.read_bytes().count(b"\n") < 30):
        time.sleep(0.002)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
    again = tiny.call("run", spec, "--out", out)
    assert again.returncode == 0, again.stderr
    one, other = (checkpoint.newest(run / "told")[0] for run in (whole, out))
    assert one is not None and other is not None and one.step == other.step == 80
    for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_labels_that_are_listed_after_a_phase_that_finds_its_own_are_refused(tmp_path: Path) -> None:
    spec = written(tmp_path, "causal")
    more = "  more: {kind: classify, from: told, mixture: {facts: 100%}, budget: 4 steps, labels: [fresh, rotten]}\n"
    spec.write_text(spec.read_text() + more)
    with pytest.raises(LlmspecError) as caught:
        prepare(llmspec.compile(llmspec.load_spec(spec).spec))
    (problem,) = caught.value.problems
    assert problem.path == ("phases", "more", "labels") and "list the same `labels:` there" in problem.hint
    told = spec.read_text().replace("    kind: classify\n", "    kind: classify\n    labels: [fresh, rotten]\n", 1)
    spec.write_text(told)
    prepare(llmspec.compile(llmspec.load_spec(spec).spec))
