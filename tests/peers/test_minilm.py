"""Sentence embeddings of all-MiniLM-L6-v2, its real weights: those of the transformers library on 1,000 sentences."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny

pytestmark = [pytest.mark.peers, pytest.mark.network]
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from test_foreign_ids import lines, minilm  # noqa: E402

import llmspec  # noqa: E402


def test_vectors_are_those_of_the_library() -> None:
    """As sentence-transformers computes them: 256 tokens at most, the mean over the tokens, divided by its length."""
    texts = [*lines()[::11], *lines()[:100]][:1000]
    texts[7] = " ".join(lines()[:40])  # longer than is read
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(minilm()))
    theirs = transformers.AutoModel.from_pretrained(str(minilm())).eval()
    found = llmspec.open(minilm()).embed(texts)
    assert found.vectors.shape == (1000, 384) and found.longest == 256 and 7 in found.cut
    expected = np.zeros_like(found.vectors)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for begin in range(0, len(order), 50):
        chosen = order[begin : begin + 50]
        batch = tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.no_grad():
            states_BTD = theirs(**batch).last_hidden_state
        mask_BT1 = batch.attention_mask.unsqueeze(-1).float()
        means = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        expected[chosen] = torch.nn.functional.normalize(means, dim=1).numpy()
    cosines = (found.vectors * expected).sum(1)
    print(f"cosine to transformers on {len(texts)} sentences: least {cosines.min():.7f}, mean {cosines.mean():.7f}")
    assert cosines.min() >= 0.9999


def test_the_verb_finds_what_is_alike() -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The parliament passed a law."]
    done = tiny.call("embed", minilm(), "--json", *(word for text in texts for word in ("--text", text)))
    assert done.returncode == 0, done.stderr
    vectors = np.array([text["embedding"] for text in json.loads(done.stdout)["texts"]])
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.6 > 0.2 > cosines[0, 2]
