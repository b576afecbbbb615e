"""T5 of transformers, 1.0 and 1.1: logits, cached decoding and gradients, texts of different lengths, padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from networks import VOCAB, drawn_weights, model_of  # noqa: E402
from test_encoder_decoder import ours  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy  # noqa: E402
from llmspec.compiler.masks import encoder_inputs, range_inputs  # noqa: E402
from llmspec.compiler.plan import ModelPlan  # noqa: E402
from llmspec.model.decoder import Decoder  # noqa: E402

CONTEXT, SOURCE = 20, 24
LOGITS, GRADIENTS = 2e-4, 1e-4


@st.composite
def configs(draw: Any) -> Any:
    gated = draw(st.booleans())
    return transformers.T5Config(
        vocab_size=VOCAB,
        d_model=draw(st.sampled_from([12, 20])),
        d_kv=draw(st.sampled_from([3, 8])),
        d_ff=draw(st.integers(5, 40)),
        num_layers=draw(st.integers(1, 3)),
        num_decoder_layers=draw(st.integers(1, 3)),
        num_heads=draw(st.integers(1, 4)),
        relative_attention_num_buckets=draw(st.sampled_from([4, 8, 32])),
        relative_attention_max_distance=draw(st.sampled_from([17, 128])),
        dropout_rate=0.0,
        layer_norm_epsilon=draw(st.sampled_from([1e-6, 1e-2])),
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,  # 1.1 has a head of its own, and does not scale what it reads
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


def spec_of(config: Any) -> dict[str, Any]:
    """The `model:` that describes it."""
    attention = {"kind": "multi_head", "heads": config.num_heads, "head_dim": config.d_kv, "scale": 1.0}
    gated = {"kind": "geglu", "approximate": "tanh"} if config.is_gated_act else {"kind": "relu"}
    scaled = config.scale_decoder_outputs
    return {
        "d_model": config.d_model,
        "context": CONTEXT,
        "layers": config.num_decoder_layers,
        "encoder": {"layers": config.num_layers, "context": SOURCE, "decoder_start": "bos"},
        "position": {
            "kind": "t5_relative",
            "buckets": config.relative_attention_num_buckets,
            "max_distance": config.relative_attention_max_distance,
        },
        "attention": attention,
        "cross_attention": attention,
        "mlp": {**gated, "d_ff": config.d_ff},
        "norm": {"kind": "rmsnorm", "eps": config.layer_norm_epsilon},
        "heads": {"lm": {"kind": "lm", "tied": scaled, "scale": config.d_model**-0.5 if scaled else 1.0}},
    }


def names(model: ModelPlan) -> dict[str, str]:
    """Our names -> theirs."""
    found = {"embed_tokens.weight": "shared.weight", "lm_head.weight": "lm_head.weight"}
    for stack in model.stacks:
        own, to = ("" if stack.name == "decoder" else "encoder."), f"{stack.name}.block"
        found[f"{own}position.weight"] = f"{to}.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found[f"{own}final_norm.weight"] = f"{stack.name}.final_layer_norm.weight"
        branches = [("attention", "SelfAttention"), *([("cross_attention", "EncDecAttention")] if not own else [])]
        for layer in range(len(stack.order)):
            at = f"{own}layers.{layer}"
            for i, (mine, theirs) in enumerate(branches):
                found[f"{at}.{mine}_norm.weight"] = f"{to}.{layer}.layer.{i}.layer_norm.weight"
                for n in "qkvo":
                    found[f"{at}.{mine}.{n}_proj.weight"] = f"{to}.{layer}.layer.{i}.{theirs}.{n}.weight"
            last = f"{to}.{layer}.layer.{len(branches)}"
            found[f"{at}.mlp_norm.weight"] = f"{last}.layer_norm.weight"
            gate, up = ("wi_0", "wi_1") if _gated(stack) else ("", "wi")
            for mine, theirs in (("gate_proj", gate), ("up_proj", up), ("down_proj", "wo")):
                found[f"{at}.mlp.{mine}.weight"] = f"{last}.DenseReluDense.{theirs}.weight"
    return {t.name: found[t.name] for t in model.tensors}


def _gated(stack: Any) -> bool:
    return stack.blocks[0].mlp.kind == "geglu"


def peer_of(config: Any, model: ModelPlan, weights: dict[str, np.ndarray]) -> Any:
    """Their model with our weights, in float64."""
    config._attn_implementation = "eager"
    peer = transformers.T5ForConditionalGeneration(config).double().eval()
    if "lm_head.weight" in weights:
        peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight.detach().clone())
    own = dict(peer.named_parameters())
    by = names(model)
    assert set(by.values()) == set(own)
    with torch.no_grad():
        for name, theirs in by.items():
            own[theirs].copy_(torch.tensor(weights[name], dtype=torch.float64))
    return peer


def compare(config: Any, number: int, filled: list[int], length: int) -> None:
    model = model_of(spec_of(config))
    weights, rng, rows = drawn_weights(model, number), np.random.default_rng(number), len(filled)
    tokens = rng.integers(0, model.vocab, (rows, length)).astype(np.int32)
    source = rng.integers(0, model.vocab, (rows, max(filled))).astype(np.int32)
    arrays = {
        "tokens": tokens,
        "encoder_tokens": source,
        **range_inputs(model, False, length),
        **encoder_inputs(model, filled, max(filled), length),
    }
    pull = rng.standard_normal((rows, length, model.vocab)).astype(np.float32)
    found, gradients = ours(model, weights, arrays, pull)
    peer = peer_of(config, model, weights)
    seen = torch.arange(max(filled))[None] < torch.tensor(filled)[:, None]
    theirs = peer(
        input_ids=torch.tensor(source).long(),
        attention_mask=seen.long(),
        decoder_input_ids=torch.tensor(tokens).long(),
        use_cache=False,
    ).logits
    (theirs * torch.tensor(pull, dtype=torch.float64)).sum().backward()
    logits = theirs.detach().numpy()
    np.testing.assert_allclose(found, logits, rtol=0, atol=LOGITS * max(1.0, np.abs(logits).max()))
    own, by = dict(peer.named_parameters()), names(model)
    exact = {name: own[to].grad.numpy() for name, to in by.items()}
    least = 1e-6 * max(np.linalg.norm(g) for g in exact.values())
    for name, wanted in exact.items():
        error = np.linalg.norm(gradients[name] - wanted)
        assert error <= GRADIENTS * np.linalg.norm(wanted) + least, (name, error)

    decoder = Decoder(model, backend("CPU"), tensors_from_numpy(**weights), int(tokens[0, 0]))
    for row, n in enumerate(filled):
        cache, first = decoder.prefill([source[row, :n].tolist()], decoder.cache(1))
        decoder._start = int(tokens[row, 0])
        cache, first = decoder.prefill([source[row, :n].tolist()], cache)
        made = [first[0], *(decoder.step(cache, [int(t)])[0] for t in tokens[row, 1:])]
        np.testing.assert_allclose(np.stack(made), logits[row], rtol=0, atol=LOGITS * max(1.0, np.abs(logits).max()))


QUIET: dict[str, Any] = {"deadline": None, "phases": (Phase.generate,), "database": None}
QUIET |= {"suppress_health_check": list(HealthCheck)}
FILLED = st.lists(st.integers(1, SOURCE), min_size=1, max_size=3).filter(lambda filled: max(filled) > 1)


@seed(1)
@settings(max_examples=4, **QUIET)
@given(configs(), st.integers(0, 1 << 20), FILLED, st.integers(2, CONTEXT))
def test_drawn_configs(config: Any, number: int, filled: list[int], length: int) -> None:
    compare(config, number, filled, length)


@pytest.mark.nightly
@settings(max_examples=60, **QUIET)
@given(configs(), st.integers(0, 1 << 20), FILLED, st.integers(2, CONTEXT))
def test_many_drawn_configs(config: Any, number: int, filled: list[int], length: int) -> None:
    compare(config, number, filled, length)
