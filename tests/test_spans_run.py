"""A run that predicts spans left out of text, the whole way: it learns, shows what it fills in, and opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from test_explain import printed
from test_masked_run import rows
from typer.testing import CliRunner

import llmspec
from llmspec.cli.app import app
from llmspec.core.problems import LlmspecError
from llmspec.data.prepare import prepare
from llmspec.explain.examples import examples
from llmspec.explain.run import explain_run
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
SPEC = """\
name: counting
seed: 3
device: CPU
model:
  context: 8
  d_model: 64
  layers: 1
  position: {kind: t5_relative}
  attention: {heads: 2}
  mlp: {kind: gelu, d_ff: 64}
  encoder: {layers: 1, context: 10}
tokenizer: {kind: bpe, vocab: 308, sentinels: 6}
data:
  sources:
    counted: {kind: files, path: counted.jsonl, validation: hash 20%, max_epochs: 999}
phases:
  learn:
    kind: span_corruption
    mixture: {counted: 100%}
    budget: 120 steps
    micro_batch_size: 64
    noise_density: 0.2
    mean_noise_span_length: 1
    optimizer: {kind: muon, lr: 3e-2, adamw: {lr: 1e-2}}
    evaluate_every: 60 steps
    checkpoint_every: 60 steps
    sample_every: 120 steps
decoding: {temperature: 0, max_tokens: 7}
"""


def write(folder: Path, text: str = SPEC) -> Path:
    texts = [" ".join(WORDS[(i + j) % 10] for j in range(13 + i // 10)) for i in range(200)]
    (folder / "counted.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), "utf-8")
    return tiny.write(folder, text)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spans")
    done = tiny.call("run", write(folder), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "--prompt '… <extra_id_0> …'" in done.stdout
    return folder / "run"


def test_it_learns_and_counts_what_it_reads(straight: Path) -> None:
    found = [row["validation"] for row in rows(straight, "metrics", "learn") if "validation" in row]
    assert [[(m["name"], m.get("unit", "")) for m in one] for one in found] == [
        [("loss", "nats/token"), ("perplexity", ""), ("tokens", "tokens")]
    ] * 2
    losses = [one[0]["value"] for one in found]
    assert losses[-1] < losses[0] and losses[-1] < 0.5
    report = explain_run(RunFolder.open(straight))
    shown = printed(report, 120)
    assert "the counts match the plan" in shown and "wanted:" in shown and "<extra_id_0>" in shown


def test_it_fills_what_is_left_out(straight: Path) -> None:
    model = llmspec.open(straight)
    text = "three four <extra_id_0> six seven eight <extra_id_1>"
    assert model.fills_spans(text) and not model.fills_spans("three four")
    (found,) = model.fill_spans(text)
    assert found.text == "three four five six seven eight nine" and found.spans == (" five", " nine")
    assert model.fill_spans(text.replace("<extra_id_0>", "[MASK]"))[0] == found
    asked = ["sample", str(straight), "--prompt", text]
    (answer,) = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["answers"]
    assert answer["spans"] == [" five", " nine"] and answer["text"] == found.text
    assert found.text in CliRunner().invoke(app, asked).stdout
    with pytest.raises(LlmspecError, match="numbered"):
        model.fill_spans("<extra_id_1> <extra_id_0>")


def test_a_row_is_shown_with_both_sides(tmp_path: Path) -> None:
    (found,) = examples(prepare(llmspec.compile(load_spec(write(tmp_path)).spec)))
    (read, counts), (said, learned) = found.pieces
    assert not counts and learned and read.startswith("<|end|>") and said.startswith("<|extra_id_0|>")
    assert all(f"<|extra_id_{i}|>" in text for i in range(2) for text in (read, said))


def test_it_fills_every_prompt_of_a_file(straight: Path, tmp_path: Path) -> None:
    texts = ["three four <extra_id_0> six seven eight <extra_id_1>", "seven [MASK] nine ten one two [MASK]"]
    (tmp_path / "texts.txt").write_text("\n".join(texts), "utf-8")
    asked = ["sample", str(straight), "--prompts", str(tmp_path / "texts.txt")]
    found = [json.loads(line) for line in CliRunner().invoke(app, [*asked, "--json"]).stdout.splitlines()]
    model = llmspec.open(straight)
    said = [model.fill_spans(text)[0].text for text in texts]
    assert [one["answers"][0]["text"] for one in found] == said and [one["line"] for one in found] == [1, 2]
    assert all(text in CliRunner().invoke(app, asked).stdout for text in said)
    (tmp_path / "texts.txt").write_text("\n".join([*texts, "none", "<extra_id_1>"]), "utf-8")
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code and "texts.txt:3" in refused.output and "texts.txt:4" in refused.output


def test_its_samples_say_what_stood_there(straight: Path) -> None:
    (last,) = rows(straight, "samples", "learn")
    assert last["from"] == "validation text of counted" and "<extra_id_0>" in last["prompt"]
    places = last["prompt"].count("<extra_id_")
    assert last["text"].count(" | ") == last["target"].count(" | ") == places - 1
