"""A run that learns the tags of words by how they end: it tells them, and is explained."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny

import llmspec
from llmspec.core.problems import LlmspecError
from llmspec.decoding.conversation import Conversation

SPEC = """\
name: told
seed: 7
device: CPU
model:
  context: 64
  d_model: 24
  layers: 1
  position: {kind: rope}
  attention: {heads: 2}
  mlp: {kind: swiglu, d_ff: 48}
  mask: {kind: bidirectional}
tokenizer: {kind: bpe, vocab: 300}
data:
  sources:
    names:
      kind: files
      path: names.jsonl
      validation: hash 20%
      max_epochs: 99
      words: "{tokens}"
      tags: "{ner_tags}"
      tag_names: [O, B-PER, I-PER, B-LOC]
phases:
  told:
    kind: tag
    mixture: {names: 100%}
    budget: 60 steps
    micro_batch_size: 8
    class_weights: balanced
    optimizer: {kind: adamw, lr: 2e-2}
    keep: {best: 1, metric: F1 micro}
    evaluate_every: 30 steps
    checkpoint_every: 30 steps
    sample_every: 30 steps
"""
STEMS = ("an", "ber", "cor", "dol", "el", "fen", "gar", "hal")


def sentence(draw: random.Random) -> tuple[list[str], list[int]]:
    """Words that end in `son` or `ton` are persons and places; a person may have a second name, which begins large."""
    words, tags = list[str](), list[int]()
    for _ in range(draw.randint(2, 5)):
        kind = draw.choice(("word", "word", "person", "place"))
        stem = draw.choice(STEMS)
        words.append(stem if kind == "word" else stem.capitalize() + {"person": "son", "place": "ton"}[kind])
        tags.append({"word": 0, "person": 1, "place": 3}[kind])
        if kind == "person" and draw.random() < 0.5:
            words.append(draw.choice(STEMS).capitalize())
            tags.append(2)
    return words, tags


def write(folder: Path) -> Path:
    draw = random.Random(3)
    made = [sentence(draw) for _ in range(300)]
    lines = [json.dumps({"tokens": words, "ner_tags": tags}) for words, tags in made]
    (folder / "names.jsonl").write_text("\n".join(lines))
    return tiny.write(folder, SPEC)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of the run, what it printed)."""
    folder = tmp_path_factory.mktemp("told")
    done = tiny.call("run", write(folder), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_it_learns_and_answers(run: tuple[Path, str]) -> None:
    assert "F1 micro" in run[1] and "[B-" in run[1]
    model = llmspec.open(run[0])
    assert model.tags_words and not model.tells_labels and not model.fills
    found = model.tag("anson Berson Fen el Halton")
    assert [word.tag for word in found.words[1:]] == ["B-PER", "I-PER", "O", "B-LOC"]
    assert [(e.kind, e.text) for e in found.entities][-2:] == [("PER", "Berson Fen"), ("LOC", "Halton")]
    assert all(sum(c.probability for c in word.labels) == pytest.approx(1) for word in found.words)
    # A sentence alone is what it is beside others, and words may be given as such.
    beside = model.tag_batch(["el", ["anson", "Berson", "Fen", "el", "Halton"], "an " * 40])
    assert [w.tag for w in beside[1].words] == [w.tag for w in found.words]
    assert [w.probability for w in beside[1].words] == pytest.approx([w.probability for w in found.words], abs=1e-5)
    assert beside[2].cut and beside[2].words[-1].tag == "" and not beside[1].cut
    with pytest.raises(LlmspecError, match="draws no text"):
        model.generate("el")
    with pytest.raises(LlmspecError, match="draws no text"):
        Conversation(model)
    with pytest.raises(LlmspecError, match="tells no labels"):
        model.classify("el")


def test_the_command_answers(run: tuple[Path, str], tmp_path: Path) -> None:
    shown = tiny.call("sample", run[0], "--prompt", "el Garson")
    assert shown.returncode == 0 and "B-PER" in shown.stdout, shown.stderr
    file = tmp_path / "asked.jsonl"
    file.write_text('{"tokens": ["Garson", "Hal", "el"]}\n{"prompt": "el Dolton"}\n')
    said = tiny.call("sample", run[0], "--classify", "--prompts", file, "--json", "--top", "2")
    first, second = json.loads(said.stdout)["texts"]
    assert first["tags"] == ["B-PER", "I-PER", "O"] and second["tags"] == ["O", "B-LOC"]
    assert first["entities"] == [{"type": "PER", "text": "Garson Hal", "first": 0, "last": 1}]
    assert [len(one) for one in first["probabilities"]] == [2, 2, 2]
    empty = tiny.call("sample", run[0], "--prompt", " ")
    assert empty.returncode == 2 and "no words to tag" in empty.stderr
    drawn = tiny.call("sample", run[0], "--prompt", "el", "--n", "3")
    assert drawn.returncode == 2 and "--n" in drawn.stderr


def test_it_is_explained(run: tuple[Path, str]) -> None:
    said = tiny.call("explain", run[0])
    assert said.returncode == 0, said.stderr
    assert "tags of names, at step" in said.stdout and "is \\ said" in said.stdout
    assert "entities of names, at step" in said.stdout
    report = json.loads(tiny.call("explain", run[0], "--json").stdout)
    words, named = report["phases"][0]["labels"]
    assert [score["label"] for score in words["scores"]] == ["B-LOC", "B-PER", "I-PER", "O"]
    assert [score["label"] for score in named["scores"]] == ["LOC", "PER"]
    assert sum(score["texts"] for score in words["scores"]) == sum(n for _, _, n in words["confusion"])
    metrics = {m["name"]: m["value"] for m in report["phases"][0]["validation"][0]["scores"][-1]["metrics"]}
    assert metrics["F1 micro"] > 0.9 and metrics["accuracy"] > 0.9
