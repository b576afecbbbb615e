"""Texts as vectors: each is what the model makes of it alone; the verb says how alike they are, and writes them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tokenizer_files
from hypothesis import given, settings
from hypothesis import strategies as st

import llmspec
from llmspec.core.problems import DataError, LlmspecError
from llmspec.decoding.embedding import similarities
from llmspec.decoding.reading import ROWS, TOKENS, batches
from llmspec.model.weights import drawn
from llmspec.runs.model_folder import save_model

SPEC = """\
name: encoder
device: CPU
model:
  context: 40
  d_model: 16
  layers: 2
  attention: {{heads: 2}}
  mask: {{kind: {mask}}}
  heads: {{vector: {{kind: embedding, pooling: {pooling}, max_tokens: 24}}}}
tokenizer: {{kind: huggingface, file: {file}}}
"""
TEXTS = [
    "Hello",
    "The quick brown fox jumps over the lazy dog",
    "fox",
    "naïve façade 😀 " * 9,
    "Die Katze saß.",
]


def made(folder: Path, mask: str = "bidirectional", pooling: str = "mean") -> Path:
    spec = folder / "encoder.yaml"
    spec.write_text(SPEC.format(mask=mask, pooling=pooling, file=tokenizer_files.kept("wordpiece")))
    plan = llmspec.compile(llmspec.load_spec(spec).spec)
    weights = drawn(plan.model, 1)
    codec = plan.tokenizer.train(())
    save_model(folder / "model", plan, codec.to_json(), weights, phase="init", chat=False)
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def model(folder: Path) -> llmspec.LanguageModel:
    return llmspec.open(folder)


def test_a_vector_is_that_of_the_text_alone(model: llmspec.LanguageModel) -> None:
    found = model.embed(TEXTS)
    assert found.vectors.shape == (5, 16) and found.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    assert found.cut == (3,) and found.longest == 24 and found.tokens[3] == 24
    for i, text in enumerate(TEXTS):
        assert np.abs(model.embed([text]).vectors[0] - found.vectors[i]).max() < 1e-6, text
    again = model.embed([*TEXTS, *TEXTS[::-1]] * 9).vectors
    assert np.abs(again[:5] - found.vectors).max() < 1e-6 and np.abs(again[9:4:-1] - found.vectors).max() < 1e-6
    assert np.abs(found.vectors[0] - found.vectors[2]).max() > 1e-3, "texts differ"


def test_special_tokens_stand_around_a_text_that_is_cut(model: llmspec.LanguageModel) -> None:
    """The last token stays `[SEP]`, and what is behind the cut does not matter."""
    long = "the fox " * 40
    assert np.array_equal(model.embed([long]).vectors, model.embed([long + "Katze"]).vectors)
    specials = model.codec.specials
    ids = [*specials.before, *model.codec.encode([long])[0][:22], *specials.after]
    assert len(ids) == 24
    other = model.embed(["dog " + long]).vectors
    assert np.abs(other - model.embed([long]).vectors).max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
def test_pooling_is_of_the_text_and_not_of_padding(tmp_path: Path, mask: str, pooling: str) -> None:
    from llmspec.backends.backend import backend
    from llmspec.backends.tensors import tensors_from_numpy, to_numpy
    from llmspec.compiler.masks import range_inputs
    from llmspec.model.transformer import Transformer, block_context

    model = llmspec.open(made(tmp_path, mask, pooling))
    text = TEXTS[1]
    specials = model.codec.specials
    ids = np.array([[*specials.before, *model.codec.encode([text])[0], *specials.after]], np.int32)[:, :24]
    transformer, own = Transformer(model.plan.model), backend("CPU", True)
    inputs = tensors_from_numpy(tokens=ids, **range_inputs(model.plan.model, False, ids.shape[1]))
    tensors = {**model._weights, **tensors_from_numpy(**transformer.tables())}
    hidden = to_numpy(transformer.hidden(own.ops(own.inputs), tensors, inputs, block_context(inputs)).realize())[0]
    state = {"mean": hidden.astype(np.float64).mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
    assert np.abs(model.embed([text, "fox"]).vectors[0] - state / np.linalg.norm(state)).max() < 2e-6
    assert np.allclose(model.embed([text], pooling=pooling).vectors[0] * 1.0, model.embed([text]).vectors[0], atol=1e-6)


@given(lengths=st.lists(st.integers(1, 500), max_size=300))
@settings(deadline=None)
def test_batches_hold_every_text_once_and_little_padding(lengths: list[int]) -> None:
    found = list(batches(lengths, 512))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[i] for i in batch)
        tokens = max(16, 1 << (longest - 1).bit_length())
        rows = next(n for n in ROWS if n >= len(batch))
        assert rows == 1 or rows * tokens <= TOKENS
        assert all(2 * lengths[i] > tokens or tokens == 16 for i in batch)


def test_what_are_no_texts_is_refused(model: llmspec.LanguageModel, tmp_path: Path) -> None:
    for wrong in ("a text", [1], [b"x"], [None]):
        with pytest.raises(TypeError, match="list of texts"):
            model.embed(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pooling is one of"):
        model.embed(["x"], pooling="max")
    with pytest.raises(DataError, match="surrogate"):
        model.embed(["\ud800"])
    assert model.embed([]).vectors.shape == (0, 16)
    assert model.embed([""]).tokens == (2,), "an empty text has its special tokens"
    spec = tmp_path / "s.yaml"
    spec.write_text(SPEC.format(mask="causal", pooling="mean", file=tokenizer_files.kept()).replace("24", "41"))
    with pytest.raises(LlmspecError, match="longer than the context of 40"):
        llmspec.compile(llmspec.load_spec(spec).spec)


# -- the verb ----------------------------------------------------------------------------------------------------------
def call(*arguments: Any) -> Any:
    return tiny.call("embed", *map(str, arguments))


def test_a_few_texts_are_a_table(folder: Path) -> None:
    done = call(folder, "--text", "the fox", "--text", "the dog", "--text", "fox the")
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert rows[0].split() == ["text", "1", "2", "3"] and "the fox" in rows[1]
    values = [[float(x) for x in row.split()[-3:]] for row in rows[1:]]
    assert [values[i][i] for i in range(3)] == [1.0] * 3 and values[0][1] == values[1][0] < 1
    expected = similarities(llmspec.open(folder).embed(["the fox", "the dog", "fox the"]).vectors)
    assert np.abs(np.array(values) - expected).max() < 0.006


def test_vectors_go_to_files(folder: Path, tmp_path: Path, model: llmspec.LanguageModel) -> None:
    (tmp_path / "texts.txt").write_text("Hello\r\n\nThe quick brown fox\n" + "fox " * 60)
    texts = ["Hello", "The quick brown fox", "fox " * 60]
    expected = model.embed(texts).vectors
    done = call(folder, "--texts", tmp_path / "texts.txt", "-o", tmp_path / "v.npy")
    assert done.returncode == 0 and "3 vectors of 16 numbers" in done.stdout
    assert "1 of 3 texts are longer than the 24 tokens that are read" in done.stderr
    assert np.array_equal(np.load(tmp_path / "v.npy", allow_pickle=False), expected)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    assert call(folder, "--texts", tmp_path / "texts.jsonl", "--out", tmp_path / "v.jsonl").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
    piped = subprocess.run(
        tiny.command("embed", folder, "--texts", "-", "--json"), input="Hello\n", capture_output=True, text=True
    )
    answer = json.loads(piped.stdout)
    assert answer["dimensions"] == 16 and answer["texts"][0]["cut"] is False
    assert np.array_equal(np.array(answer["texts"][0]["embedding"], np.float32), expected[0])


def test_mistakes_are_sentences(folder: Path, tmp_path: Path) -> None:
    cases = {
        (folder,): "there are no texts",
        (folder, "--text", "x", "-o", tmp_path / "v.csv"): "named like no file of vectors",
        (folder, "--text", "x", "--pooling", "max"): "no pooling is named `max`",
        (folder, "--texts", tmp_path / "none.txt"): "cannot be read",
        (folder, *("--text", "x") * 13): "a table of 13 texts cannot be read",
        (tmp_path / "nothing", "--text", "x"): "is not a run directory",
    }
    for arguments, words in cases.items():
        done = call(*arguments)
        assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr, done.stderr
