"""Cosines and sines of rotary positions are those of the transformers library, for every scaling that it knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: E402

from llmspec.parts.base import Dims  # noqa: E402
from llmspec.parts.positions.rope import Rope  # noqa: E402
from llmspec.parts.rope_scalings import TABLE  # noqa: E402

KEYS = {"original_context": "original_max_position_embeddings", "kind": "rope_type"}
"""What transformers calls keys that have another name there."""
numbers = lambda low, high: st.floats(low, high, width=32)


@st.composite
def scalings(draw: Any, kind: str) -> dict[str, Any]:
    """Settings of a kind of scaling, those without effect left out."""
    out: dict[str, Any] = {"kind": kind, "factor": draw(numbers(1, 40))}
    if kind != "linear":
        out["original_context"] = draw(st.integers(4, 5000))
    if kind == "llama3":
        out["low_freq_factor"] = draw(numbers(0.5, 2))
        out["high_freq_factor"] = out["low_freq_factor"] + draw(numbers(0.25, 6))
    if kind == "yarn":
        out["beta_slow"] = draw(numbers(0.25, 4))
        out["beta_fast"] = out["beta_slow"] + draw(numbers(0.25, 40))
        out["truncate"] = draw(st.booleans())
        scaled = draw(st.sampled_from(["", "attention_factor", "mscale"]))
        if scaled == "attention_factor":
            out["attention_factor"] = draw(numbers(0.5, 2))
        if scaled == "mscale":
            out |= {"mscale": draw(numbers(0.25, 2)), "mscale_all_dim": draw(numbers(0.25, 2))}
    return out


@pytest.mark.parametrize("kind", ["", *TABLE])
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_cosines_and_sines(kind: str, data: st.DataObject) -> None:
    """Ours are rounded from float64; theirs have angles in float32, and frequencies, too."""
    head_dim, width = data.draw(st.sampled_from([(4, 4), (10, 10), (16, 4), (24, 6), (64, 64), (80, 32)]))
    theta, tokens = data.draw(numbers(50, 1e6)), data.draw(st.integers(1, 300))
    own: dict[str, Any] = {"theta": theta, "fraction": width / head_dim}
    theirs: dict[str, Any] = {"rope_theta": theta, "partial_rotary_factor": width / head_dim, "rope_type": "default"}
    longest = 8192
    if kind:
        own["scaling"] = data.draw(scalings(kind))
        theirs |= {KEYS.get(key, key): value for key, value in own["scaling"].items()}
    if kind == "dynamic":  # the context is what the base grows from there
        longest = own["scaling"]["original_context"]
    config = transformers.LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim, max_position_embeddings=longest
    )
    config.rope_parameters = theirs
    part = Rope.model_validate(own)
    cos, sin = made(part, head_dim, tokens)
    module = LlamaRotaryEmbedding(config)
    if not kind and width < head_dim:
        return  # LLaMA's default form turns whole heads
    places = torch.arange(tokens)[None]
    expected = [t[0].numpy() for t in module(torch.zeros(1, tokens, head_dim), places)]
    room = 4e-7 * (tokens + 4) * max(1.0, np.abs(expected).max())
    for ours, wanted in zip((cos, sin), expected, strict=True):
        assert ours.shape == wanted.shape == (tokens, width)
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=room)


def made(part: Rope, head_dim: int, tokens: int) -> list[np.ndarray]:
    """Cosines and sines at each of the positions of a text of so many tokens."""
    dims = Dims(8, 1, tokens, 9, 1, 1, head_dim)
    assert part.table_numbers(dims) == sum(t.size for t in part.tables(dims).values())
    tables = part.tables(dims)
    if "frequencies" in tables:
        assert part.follows_length(dims)
        angle = np.arange(tokens)[:, None] * tables["frequencies"][-1]
        return [np.cos(angle), np.sin(angle)]
    return [tables["cos"], tables["sin"]]


@settings(deadline=None, max_examples=3)
@given(st.integers(0, 99), st.integers(1, 20))
def test_a_base_that_grows_while_a_text_is_continued(number: int, first: int) -> None:
    """Dynamic scaling with a cache: keys keep the angles of the length at which they were read."""
    import tempfile
    from pathlib import Path

    from hf_cases import CONTEXT, VOCAB, model_in

    import llmspec

    scaled = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT // 4,
        rope_parameters=scaled,
        eos_token_id=None,
        bos_token_id=None,
    )
    with tempfile.TemporaryDirectory() as name:
        model, opened = model_in(Path(name), config, number), llmspec.open(Path(name))
        text = np.random.default_rng(number).integers(0, VOCAB, 2 * (CONTEXT // 4)).tolist()
        first = min(first, len(text) - 1)
        cache, logits = opened.decoder.prefill([text[:first]])
        past = None
        for at in range(first, len(text)):
            read = text[:first] if past is None else [text[at - 1]]
            with torch.no_grad():
                done = model(torch.tensor([read]), past_key_values=past, use_cache=True)
            past = done.past_key_values
            np.testing.assert_allclose(logits[0], done.logits[0, -1].numpy(), rtol=0, atol=2e-4)
            logits = opened.decoder.step(cache, [text[at]])
