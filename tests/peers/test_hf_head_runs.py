"""Runs that learned labels, tags, numbers or rewards, exported: transformers gives the answers that the runs give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tiny  # noqa: E402

import llmspec  # noqa: E402
from llmspec.exchange.exporting import export_folder  # noqa: E402
from llmspec.parts.rewards.base import Answered  # noqa: E402
from llmspec.spec import load_spec  # noqa: E402
from llmspec.training.callbacks import Recorder  # noqa: E402

ENCODER = """\
  embedding: {token_types: 2, norm: {kind: layernorm}}
  position: {kind: learned}
  attention: {kind: multi_head, heads: 2, bias: true}
  mask: {kind: bidirectional}
  mlp: {kind: gelu, approximate: none, d_ff: 24, bias: true}
  norm: {kind: layernorm}
  init: {kind: normal, std: 0.2}
  residual: post
  heads: {lm: {kind: lm, bias: true, transform: {approximate: none, norm: {kind: layernorm}}}}
tokenizer: {kind: wordpiece, vocab: 79, special_tokens: [mask, cls, sep]}
"""
DECODER = """\
  position: {kind: rope}
  attention: {heads: 2}
  mlp: {kind: swiglu, d_ff: 24}
  norm: {kind: rmsnorm}
tokenizer: {kind: bpe, vocab: 280}
"""
SPEC = """\
name: told
seed: 7
device: CPU
model:
  context: 48
  d_model: 16
  layers: 2
NETWORK
data:
  sources:
    facts: {kind: files, path: facts.jsonl, validation: hash 20%, max_epochs: 50, SOURCE}
phases:
  told:
    {PHASE, mixture: {facts: 100%}, budget: 12 steps, micro_batch_size: 4, optimizer: {kind: adamw, lr: 1e-2},
     evaluate_every: 12 steps, checkpoint_every: 12 steps, sample_every: 12 steps}
"""
AFTER = """\
  said: {kind: sft, mixture: {facts: 100%}, budget: 2 steps, micro_batch_size: 4}
"""
"""A phase whose model a run is opened with, unless the reward model is asked for."""


class Case(NamedTuple):
    network: str
    source: str
    phase: str
    architecture: str
    more: str = ""


TAGS = 'words: "{words}", tags: "{tags}", tag_names: [O, B-PER, B-LOC]'
NUMBERS = 'text: "{text}", label: "{number}"'
LABELS = 'text: "{text}", label: "{label}"'
PAIRS = 'prompt: "{text}", chosen: "it is {label}", rejected: "it is not {label}, no"'
POOLER = "pooling: cls, pooler: true, bias: true"
CASES = {
    "classes of bert": Case(
        ENCODER,
        LABELS,
        f"kind: classify, heads: {{classes: {{kind: classes, labels: [bad, good], {POOLER}}}}}",
        "BertForSequenceClassification",
    ),
    "classes of llama": Case(
        DECODER,
        LABELS,
        "kind: classify, heads: {classes: {kind: classes, labels: [bad, good], pooling: last, bias: false}}",
        "LlamaForSequenceClassification",
    ),
    "tags of bert": Case(ENCODER, TAGS, "kind: tag", "BertForTokenClassification"),
    "tags of llama": Case(DECODER, TAGS, "kind: tag", "LlamaForTokenClassification"),
    "numbers of bert": Case(
        ENCODER,
        NUMBERS,
        f"kind: regress, heads: {{score: {{kind: score, {POOLER}}}}}",
        "BertForSequenceClassification",
    ),
    "numbers of llama": Case(
        DECODER,
        NUMBERS,
        "kind: regress, mean: 0, std: 300, heads: {score: {kind: score, pooling: last, bias: false}}",
        "LlamaForSequenceClassification",
    ),
    "rewards of llama": Case(DECODER, PAIRS, "kind: reward", "LlamaForSequenceClassification", AFTER),
}


def trained(folder: Path, case: Case) -> Path:
    """The run of a case."""
    words = ["awful", "poor", "fair", "good", "superb"]
    lines = [
        {
            "text": f"it is {word} {i}",
            "label": "good" if i % 5 > 2 else "bad",
            "number": 120 * (i % 5) + i,
            "words": ["It", f"{word}son".capitalize(), "in", f"{word}ton", str(i)],
            "tags": [0, 1, 0, 2, 0],
        }
        for i, word in enumerate(words * 12)
    ]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = SPEC.replace("NETWORK\n", case.network).replace("SOURCE", case.source).replace("PHASE", case.phase)
    spec = load_spec(tiny.write(folder, text + case.more)).spec
    return Path(llmspec.run(llmspec.compile(spec), folder / "run", watcher=Recorder()).path)


@pytest.mark.parametrize("name", CASES)
def test_transformers_answers_as_the_run(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    opened = llmspec.open(trained(tmp_path, case), phase="told")
    found = export_folder(opened, tmp_path / "out")
    assert found.architecture == case.architecture and len(found.compared) == 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = getattr(transformers, case.architecture).from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ask = {"classify": classes, "tag": tags, "regress": numbers, "reward": rewards}
    own, theirs = ask[case.phase.removeprefix("kind: ").split(",")[0]](opened, tokenizer, model)
    np.testing.assert_allclose(theirs, own, rtol=1e-5, atol=1e-5)
    assert np.ptp(own, axis=0).min() > 1e-3, "answers that are all alike would show nothing"


TEXTS = ("it is awful 3", "it is superb 4, and more", "good")


def outputs(model: Any, **asked: Any) -> Any:
    with torch.no_grad():
        return model(**asked).logits[0].double()


def classes(opened: Any, tokenizer: Any, model: Any) -> tuple[Any, Any]:
    """Probabilities of labels, by their names."""
    own = [{c.label: c.probability for c in one.labels} for one in opened.classify_batch(TEXTS)]
    theirs = [outputs(model, **tokenizer(text, return_tensors="pt")).softmax(-1) for text in TEXTS]
    labels = [model.config.id2label[i] for i in range(len(own[0]))]
    return np.array([[one[label] for label in labels] for one in own]), np.stack(theirs)


def numbers(opened: Any, tokenizer: Any, model: Any) -> tuple[Any, Any]:
    own = [one.value for one in opened.predict_batch(TEXTS)]
    return np.array(own), np.concatenate([outputs(model, **tokenizer(t, return_tensors="pt")) for t in TEXTS])


def tags(opened: Any, tokenizer: Any, model: Any) -> tuple[Any, Any]:
    """Probabilities of the tags of each word, which transformers reads off the word's first token."""
    own, theirs = [], []
    for words in (["It", "Goodson", "in", "awfulton", "7"], ["superbton"]):
        said = {
            i: [c.probability for c in sorted(w.labels, key=lambda c: c.label)]
            for i, w in enumerate(opened.tag(words).words)
        }
        asked = tokenizer(" ".join(words), return_tensors="pt")
        before = [tokenizer(" ".join(words[:i]), add_special_tokens=False)["input_ids"] for i in range(len(words))]
        firsts = [1 + len(ids) for ids in before]  # one special token stands before a text
        told = outputs(model, **asked).softmax(-1)
        order = sorted(range(3), key=lambda i: model.config.id2label[i])
        own += [said[i] for i in range(len(words))]
        theirs += [told[at][order].tolist() for at in firsts]
    return np.array(own), np.array(theirs)


def rewards(opened: Any, tokenizer: Any, model: Any) -> tuple[Any, Any]:
    """Of dialogues by the folder's own chat template."""
    asked = [("it is good 3", "it is good"), ("it is good 3", "it is not good, no"), ("why?", "so")]
    own = opened.rewards([Answered(prompt=prompt, text=text) for prompt, text in asked])
    theirs = []
    for prompt, text in asked:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        theirs.append(float(outputs(model, **ids)))
    return np.array(own), np.array(theirs)
