"""Encoder–decoders of transformers, opened from their folders: logits, cached decoding and gradients are the same, for
texts of different lengths beside padding; tensors go there and back."""

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
from test_hf import LOGITS, QUIET, apart, gradients, named_gradients, round_trip  # noqa: E402

import llmspec  # noqa: E402
from llmspec.compiler.masks import ENCODER, encoder_inputs  # noqa: E402
from llmspec.exchange import exporting, read_back  # noqa: E402
from llmspec.exchange.importing import import_folder  # noqa: E402

CONTEXT, SOURCE = 20, 24
START = 2
"""Padding, as hf_folders writes it."""


@st.composite
def t5(draw: Any, *projections: str) -> Any:
    """With one of these feed-forward layers; gated ones beside a head of its own that is not scaled, as in 1.1."""
    proj = draw(st.sampled_from(projections))
    return transformers.T5Config(
        vocab_size=VOCAB + draw(st.integers(0, 5)),
        d_model=draw(st.sampled_from([12, 20])),
        d_kv=draw(st.sampled_from([3, 8])),
        d_ff=draw(st.integers(5, 40)),
        num_layers=draw(st.integers(1, 3)),
        num_decoder_layers=draw(st.integers(1, 3)),
        num_heads=draw(st.integers(1, 4)),
        relative_attention_num_buckets=draw(st.sampled_from([4, 8, 32])),
        relative_attention_max_distance=draw(st.sampled_from([17, 128])),
        layer_norm_epsilon=draw(st.sampled_from([1e-6, 1e-2])),
        feed_forward_proj=proj,
        tie_word_embeddings=not proj.startswith("gated"),
        n_positions=SOURCE,
        **draw(st.sampled_from([{}, {"max_decoder_position_embeddings": CONTEXT}])),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=START,
        decoder_start_token_id=START,
    )


PAIRS = {"t5": {"1.0": t5("relu"), "1.1": t5("gated-gelu")}}
"""By the names of the mapping tables, and by version."""
OTHERS = {"t5": t5("gelu", "gelu_new", "silu", "gated-relu", "gated-silu")}
"""What no published checkpoint has, and the classes of transformers have all the same."""
VERSIONS = [(family, version) for family, versions in PAIRS.items() for version in versions]


def model_in(folder: Path, config: Any, number: int) -> Any:
    torch.manual_seed(number)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    if not config.scale_decoder_outputs:  # a head of its own, which files have and a new model has not
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.15 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    model.eval().save_pretrained(folder)
    write_tokenizer(folder, min(config.vocab_size, VOCAB))
    return model


def compare(config: Any, number: int, filled: list[int], length: int) -> tuple[float, float]:
    """The largest difference of logits, and of gradients relative to their norms."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, rng = model_in(folder, config, number), np.random.default_rng(number)
        opened = llmspec.open(folder)
        tokens = rng.integers(0, config.vocab_size, (len(filled), length)).astype(np.int64)
        tokens[:, 0] = START
        source = rng.integers(0, config.vocab_size, (len(filled), max(filled))).astype(np.int64)
        seen = torch.arange(max(filled))[None] < torch.tensor(filled)[:, None]
        theirs = model(
            input_ids=torch.from_numpy(source),
            attention_mask=seen.long(),
            decoder_input_ids=torch.from_numpy(tokens),
            use_cache=False,
        ).logits
        logits = theirs.detach().numpy()
        prompts = [row[:n] for row, n in zip(source, filled, strict=True)]
        own = np.concatenate([opened.logits(row, prompt) for row, prompt in zip(tokens, prompts, strict=True)])
        np.testing.assert_allclose(own, logits, rtol=0, atol=LOGITS)
        cache, first = opened.decoder.prefill([prompt.tolist() for prompt in prompts])
        steps = [first, *(opened.decoder.step(cache, tokens[:, i].tolist()) for i in range(1, length))]
        np.testing.assert_allclose(np.stack(steps, axis=1), logits, rtol=0, atol=LOGITS)
        round_trip(opened, folder, folder / "again")
        again = transformers.AutoConfig.from_pretrained(folder / "again")
        for field in ("decoder_start_token_id", "pad_token_id", "eos_token_id", "bos_token_id"):
            assert getattr(again, field) == getattr(config, field)
        up = rng.normal(size=logits.shape).astype(np.float32)
        (theirs * torch.from_numpy(up)).sum().backward()
        encoder = {f"{ENCODER}tokens": source.astype(np.int32)}
        encoder |= encoder_inputs(opened.plan.model, filled, max(filled), length)
        ours = gradients(opened, tokens.astype(np.int32), up, encoder)
        return float(np.abs(own - logits).max()), apart(ours, named_gradients(opened, folder, model))


FILLED = st.lists(st.integers(1, SOURCE), min_size=2, max_size=3).filter(lambda filled: max(filled) > 1)


@pytest.mark.parametrize(("family", "version"), VERSIONS)
def test_drawn_configs(family: str, version: str, record_property: Record) -> None:
    found: list[tuple[float, float]] = []

    @seed(1)
    @settings(max_examples=2, **QUIET)
    @given(PAIRS[family][version], st.integers(0, 1 << 30), FILLED, st.integers(2, CONTEXT))
    def check(config: Any, number: int, filled: list[int], length: int) -> None:
        found.append(compare(config, number, filled, length))

    check()
    delta, relative = (f"{max(figures):.1g}" for figures in zip(*found, strict=True))
    tell(record_property, family, imported="yes", delta=delta, gradients=relative, exported="yes")


@pytest.mark.nightly
@pytest.mark.parametrize(("family", "version"), VERSIONS)
def test_many_drawn_configs(family: str, version: str) -> None:
    @settings(max_examples=40, **QUIET)
    @given(PAIRS[family][version], st.integers(0, 1 << 30), FILLED, st.integers(2, CONTEXT))
    def check(config: Any, number: int, filled: list[int], length: int) -> None:
        compare(config, number, filled, length)

    check()


@pytest.mark.nightly
@pytest.mark.parametrize("family", OTHERS)
def test_other_drawn_configs(family: str) -> None:
    @settings(max_examples=20, **QUIET)
    @given(OTHERS[family], st.integers(0, 1 << 30), FILLED, st.integers(2, CONTEXT))
    def check(config: Any, number: int, filled: list[int], length: int) -> None:
        compare(config, number, filled, length)

    check()


@pytest.mark.parametrize("proj", ["relu", "gated-gelu"])
def test_text_there_and_back(proj: str, tmp_path: Path) -> None:
    """Imported, sampled and exported; transformers reads what is exported."""
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=20, d_kv=6, d_ff=30, num_layers=2, num_heads=3, feed_forward_proj=proj,
        tie_word_embeddings=proj == "relu", bos_token_id=0, eos_token_id=1, pad_token_id=START,
        decoder_start_token_id=START, n_positions=64,
    )  # fmt: skip
    peer = model_in(tmp_path / "theirs", config, 3)
    imported = import_folder(tmp_path / "theirs", tmp_path / "ours")
    assert imported.architecture == "T5ForConditionalGeneration"
    model = llmspec.open(tmp_path / "ours")
    assert imported.parameters == sum(p.numel() for p in peer.parameters())
    assert llmspec.compile(llmspec.load_spec(tmp_path / "ours" / "spec.yaml").spec).model == model.plan.model
    (answer,) = model.generate("A prompt", temperature=0.0, max_tokens=6, chat=False)
    ids = torch.tensor([model.tokens("A prompt", chat=False)])
    wanted = peer.generate(ids, max_new_tokens=6, do_sample=False, use_cache=False)[0, 1:].tolist()
    assert answer.tokens and list(answer.tokens) == wanted[: len(answer.tokens)]
    made = exporting.export_folder(model, tmp_path / "out", origin="t5")
    ours, theirs = made.compared
    assert ours.logits == 0 and ours.greedy and theirs.greedy and theirs.texts
    assert theirs.logits <= read_back.LARGEST and theirs.reader.startswith("transformers")


@pytest.mark.parametrize("version", PAIRS["t5"])
def test_prompts_and_answers_are_those_of_transformers(version: str, tmp_path: Path) -> None:
    """A text is read with the </s> that its tokenizer puts behind it, and answered as `generate` does."""

    @seed(3)
    @settings(max_examples=2, **QUIET)
    @given(PAIRS["t5"][version], st.integers(0, 1 << 30), st.text("ab é", min_size=1, max_size=9))
    def check(config: Any, number: int, text: str) -> None:
        folder = tmp_path / str(number)
        model = model_in(folder, config, number)
        write_tokenizer(folder, min(config.vocab_size, VOCAB), ended=True)
        tokenizer, opened = transformers.AutoTokenizer.from_pretrained(folder), llmspec.open(folder)
        asked = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        assert opened.tokens(text) == asked.input_ids[0].tolist() and opened.tokens(text)[-1] == 1
        drawn = model.generate(**asked, max_new_tokens=6, do_sample=False, use_cache=False)[0, 1:].tolist()
        (answer,) = opened.generate(text, temperature=0, max_tokens=6)
        assert answer.text == tokenizer.decode(drawn, skip_special_tokens=True)

    check()
