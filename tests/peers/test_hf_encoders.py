"""Encoders of transformers, imported: logits of masked tokens, pooled states, padding; tensors go there and back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from families import Record, tell  # noqa: E402
from hf_cases import VOCAB  # noqa: E402
from hf_folders import write_tokenizer  # noqa: E402
from hypothesis import given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_hf import LOGITS, QUIET, apart, gradients, round_trip, their_gradients  # noqa: E402

import llmspec  # noqa: E402

CONTEXT = 40


@st.composite
def bert(draw: Any) -> Any:
    heads = draw(st.integers(1, 4))
    return transformers.BertConfig(
        vocab_size=VOCAB + draw(st.integers(0, 5)),
        hidden_size=heads * draw(st.sampled_from([4, 6, 10])),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(5, 70)),
        max_position_embeddings=CONTEXT,
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "relu"])),
        layer_norm_eps=draw(st.sampled_from([1e-12, 1e-3])),
        type_vocab_size=draw(st.integers(1, 3)),
    )


@st.composite
def modernbert(draw: Any) -> Any:
    heads = draw(st.integers(1, 4))
    return transformers.ModernBertConfig(
        vocab_size=VOCAB + draw(st.integers(0, 5)),
        hidden_size=heads * draw(st.sampled_from([4, 6, 10])),
        num_hidden_layers=draw(st.integers(1, 5)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(5, 70)),
        max_position_embeddings=CONTEXT,
        local_attention=draw(st.sampled_from([4, 9, 14])),
        global_attn_every_n_layers=draw(st.integers(1, 3)),
        hidden_activation=draw(st.sampled_from(["gelu", "silu"])),
        norm_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        classifier_bias=draw(st.booleans()),
        decoder_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        pad_token_id=2,
        bos_token_id=0,
        eos_token_id=1,
        cls_token_id=0,
        sep_token_id=1,
    )


@st.composite
def roberta(draw: Any) -> Any:
    made = draw(bert()).to_dict()
    drop = ("model_type", "transformers_version", "pad_token_id", "hidden_act", "max_position_embeddings")
    act = draw(st.sampled_from(["gelu", "relu"]))
    return transformers.RobertaConfig(
        **{k: v for k, v in made.items() if k not in drop},
        hidden_act=act,
        pad_token_id=1,
        max_position_embeddings=CONTEXT + 2,
    )


ENCODERS = {"bert": bert, "modernbert": modernbert, "roberta": roberta}
"""By the names of the mapping tables."""


def model_in(folder: Path, config: Any, number: int, kind: Any) -> Any:
    torch.manual_seed(number)
    model = kind.from_config(config, dtype=torch.float32, attn_implementation="eager")
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.15 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    model.tie_weights()
    model.eval().save_pretrained(folder)
    write_tokenizer(folder, min(config.vocab_size, VOCAB))
    return model


@pytest.mark.parametrize("family", ENCODERS)
def test_logits_of_masked_tokens(family: str, record_property: Record) -> None:
    found: list[tuple[float, float]] = []

    @seed(1)
    @settings(max_examples=2, **QUIET)
    @given(ENCODERS[family](), st.integers(0, 1 << 30), st.integers(2, CONTEXT))
    def check(config: Any, number: int, length: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = model_in(folder, config, number, transformers.AutoModelForMaskedLM)
            opened = llmspec.open(folder)
            tokens = np.random.default_rng(number).integers(2, config.vocab_size, (2, length)).astype(np.int64)
            with torch.no_grad():
                expected = model(torch.from_numpy(tokens)).logits.numpy()
            own = opened.logits(tokens)
            np.testing.assert_allclose(own, expected, rtol=0, atol=LOGITS)
            round_trip(opened, folder, folder / "again")
            up = np.random.default_rng(number + 1).normal(size=expected.shape).astype(np.float32)
            ours = gradients(opened, tokens.astype(np.int32), up)
            relative = apart(ours, their_gradients(opened, folder, model, tokens, up))
            found.append((float(np.abs(own - expected).max()), relative))

    check()
    delta, relative = (f"{max(figures):.1g}" for figures in zip(*found, strict=True))
    tell(record_property, family, imported="yes", delta=delta, gradients=relative, exported="yes")


@pytest.mark.parametrize("family", ENCODERS)
def test_pooled_states_beside_padding(family: str) -> None:
    @seed(1)
    @settings(max_examples=2, **QUIET)
    @given(ENCODERS[family](), st.integers(0, 1 << 30))
    def check(config: Any, number: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = model_in(folder, config, number, transformers.AutoModel)
            opened = llmspec.open(folder)
            texts = ["ab", "a much longer text than that", "x"]
            rows = opened.codec.encode(texts)
            longest = max(map(len, rows))
            tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            with torch.no_grad():
                found = model(tokens, attention_mask=mask)
            if "pooler_output" in found:
                np.testing.assert_allclose(opened.embed(texts).vectors, found.pooler_output, rtol=0, atol=LOGITS)
            own = found.last_hidden_state.numpy()
            means = np.stack([own[i, : len(row)].mean(0) for i, row in enumerate(rows)])
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            np.testing.assert_allclose(opened.embed(texts, pooling="mean").vectors, means, rtol=0, atol=LOGITS)

    check()
