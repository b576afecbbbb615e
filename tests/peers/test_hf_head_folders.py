"""Heads of labels and of numbers: folders of transformers' classes answer as these do."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_folders import write_tokenizer  # noqa: E402

import llmspec  # noqa: E402
from llmspec.formats.hf.family import families  # noqa: E402

PAD, VOCAB, LOGITS = 2, 264, 2e-4
SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MORE = {"intermediate_size": 20, "max_position_embeddings": 66, "pad_token_id": PAD}
LEFT_OUT = {"intermediate_size", "hidden_size", "num_hidden_layers", "num_attention_heads"}
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 66},
    "gpt_neox": {"tie_word_embeddings": False},
    "roberta": {"pad_token_id": 1},
    "gemma2": {"head_dim": 8, "num_key_value_heads": 2},
    "gemma3": {"head_dim": 8, "num_key_value_heads": 2},
    "qwen3": {"head_dim": 8, "num_key_value_heads": 2},
    "qwen3_moe": {"head_dim": 8, "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 12},
    "qwen2_moe": {"num_key_value_heads": 2, "num_experts": 4, "moe_intermediate_size": 12},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
}
"""Further fields of a family's config; `num_key_value_heads` 2 where a family has it."""
LABELS = {0: "wrong", 1: "right", 2: "neither"}
TEXTS = ["ab", "a longer text than that", "x, y and z"]
CLASSES = [
    (name, architecture)
    for name, family in families().items()
    for architecture, of in family.architectures.items()
    if of.labelled is not None
]


def config_of(name: str, **more: Any) -> Any:
    """A small config of a family."""
    kind = transformers.AutoConfig.for_model(families()[name].model_type)
    fields = {**SIZES, **MORE, **({"num_key_value_heads": 2} if hasattr(kind, "num_key_value_heads") else {})}
    fields |= OWN.get(name, {})
    if name == "gpt2":
        fields = {key: value for key, value in fields.items() if key not in LEFT_OUT}
    return type(kind)(**{**fields, "bos_token_id": 0, "eos_token_id": 1, **more})


def model_in(folder: Path, architecture: str, config: Any, number: int) -> Any:
    """A model of drawn weights, saved."""
    torch.manual_seed(number)
    model = getattr(transformers, architecture)(config)
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.15 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    model.eval().save_pretrained(folder)
    write_tokenizer(folder, VOCAB)
    return model


def theirs(model: Any, rows: list[list[int]]) -> list[Any]:
    """Logits of texts in one batch, with padding behind them."""
    longest, pad = max(map(len, rows)), model.config.pad_token_id
    tokens = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        return list(model(tokens, attention_mask=seen).logits.double().numpy())


@pytest.mark.parametrize(("name", "architecture"), CLASSES)
def test_a_folder_answers_as_transformers(name: str, architecture: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        config = config_of(name, id2label=LABELS, label2id={label: i for i, label in LABELS.items()})
        model = model_in(Path(place), architecture, config, 5)
        opened = llmspec.open(place)
        rows = opened.codec.encode(TEXTS)
        for text, row, logits in zip(TEXTS, rows, theirs(model, rows), strict=True):
            if opened.tells_labels:
                found = {c.label: np.log(c.probability) for c in opened.classify(text).labels}
                own = [found[label] for label in LABELS.values()]
                np.testing.assert_allclose(own, log_softmax(logits), rtol=0, atol=LOGITS)
            else:
                words = opened.tag(text).words
                firsts = [len(opened.codec.encode([text[: text.index(w.word)]])[0]) for w in words]
                assert len(row) >= len(words) and firsts[0] == 0
                found = [{c.label: np.log(c.probability) for c in w.labels} for w in words]
                wanted = log_softmax(logits)[0]
                np.testing.assert_allclose([found[0][label] for label in LABELS.values()], wanted, rtol=0, atol=LOGITS)


def log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("said", ["regression", "multi_label_classification", None])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_problem_says_what_the_outputs_are(name: str, said: str | None, tmp_path: Path) -> None:
    """Numbers, labels that are a yes or no each, and a reward."""
    architecture = {"bert": "BertForSequenceClassification", "llama": "LlamaForSequenceClassification"}[name]
    more = {"num_labels": 3 if said and said.startswith("multi") else 1, "problem_type": said}
    model = model_in(tmp_path, architecture, config_of(name, **more), 7)
    opened = llmspec.open(tmp_path)
    wanted = np.stack(theirs(model, opened.codec.encode(TEXTS)))
    if said and said.startswith("multi"):
        found = [{c.label: c.probability for c in one.labels} for one in opened.classify_batch(TEXTS)]
        own = np.array([[one[f"LABEL_{i}"] for i in range(3)] for one in found])
        np.testing.assert_allclose(np.log(own / (1 - own)), wanted, rtol=0, atol=LOGITS)
    else:
        found = [one.value for one in opened.predict_batch(TEXTS)]
        np.testing.assert_allclose(found, wanted[:, 0], rtol=0, atol=LOGITS)
    assert json.loads((tmp_path / "config.json").read_text("utf-8")).get("problem_type") == said
