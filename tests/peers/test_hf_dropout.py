"""Dropout of imported models stands where transformers has it: the same masks give the same logits and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_cases import model_in  # noqa: E402
from reference_dropout import attention_key, of_attention, of_numbers  # noqa: E402
from test_hf import GRADIENTS, LOGITS, named_gradients  # noqa: E402

import llmspec  # noqa: E402

KEY = np.array([11, 22], np.uint32)
SIZES: dict[str, Any] = {"vocab_size": 270, "bos_token_id": 0, "eos_token_id": 1}
CASES = {
    "gpt2": (
        transformers.GPT2Config(
            **SIZES, n_embd=24, n_head=3, n_layer=2, n_positions=40, embd_pdrop=0.1, attn_pdrop=0.3, resid_pdrop=0.2
        ),
        {"embedding": 0.1, "attention": 0.3, "residual": 0.2},
    ),
    "llama": (
        transformers.LlamaConfig(
            **SIZES,
            hidden_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=2,
            intermediate_size=40,
            max_position_embeddings=40,
            attention_dropout=0.4,
        ),
        {"attention": 0.4},
    ),
    "starcoder2": (
        transformers.Starcoder2Config(
            **SIZES,
            hidden_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=2,
            intermediate_size=40,
            max_position_embeddings=40,
            attention_dropout=0.2,
            embedding_dropout=0.1,
            residual_dropout=0.3,
        ),
        {"embedding": 0.1, "attention": 0.2, "residual": 0.3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_masks_give_the_same_gradients(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, shares = CASES[name]
    config._attn_implementation = "eager"
    model, sites = model_in(tmp_path, config, 3), [0]
    opened = llmspec.open(tmp_path)
    assert opened.plan.model.drops.named == shares

    def counted(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not (p and training):
            return x
        sites[0] += 1
        weights = x.ndim == 4  # (B, H, T, S)
        made = (
            of_attention(attention_key(KEY, sites[0]), x.shape, p) if weights else of_numbers(KEY, sites[0], x.shape, p)
        )
        return x * torch.from_numpy(made.astype(np.float32))

    tokens = np.random.default_rng(5).integers(3, config.vocab_size, (2, 17)).astype(np.int32)
    up = np.random.default_rng(6).standard_normal((2, 17, config.vocab_size)).astype(np.float32)
    monkeypatch.setattr(torch.nn.functional, "dropout", counted)
    model.train()
    theirs = model(torch.from_numpy(tokens).long(), use_cache=False).logits
    (theirs * torch.from_numpy(up)).sum().backward()
    assert sites[0] == bool(shares.get("embedding")) + 2 * (1 + 2 * bool(shares.get("residual")))
    logits, found = ours(opened, tokens, up)
    assert np.abs(logits - theirs.detach().numpy()).max() <= LOGITS
    expected = named_gradients(opened, tmp_path, model)
    for tensor, g in expected.items():
        assert np.abs(found[tensor] - g).max() <= GRADIENTS * max(1.0, np.abs(g).max()), tensor


def ours(opened: Any, tokens: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits of a pass of training, and the gradients of sum(logits · up)."""
    from tinygrad import Tensor

    from llmspec.backends import owner
    from llmspec.backends.tensors import tensors_from_numpy
    from llmspec.compiler.masks import range_inputs
    from llmspec.model.transformer import block_context

    with owner.turn():
        model = opened.plan.model
        ranges = range_inputs(model, False, tokens.shape[1], filled_B=[tokens.shape[1]] * len(tokens))
        made = tensors_from_numpy(tokens=tokens, up=up, key=KEY, **ranges)
        inputs, weights = {**made, **opened._backend.inputs}, opened._weights
        ops = opened._backend.ops(inputs, made["key"], model.drops)
        opened.decoder.positions.reach(tokens.shape[1])
        logits = opened._model.logits(ops, {**weights, **opened._tables}, inputs, block_context(inputs))
        found = (logits * inputs["up"]).sum().gradient(*weights.values())
        Tensor.realize(logits, *found)
        return logits.numpy(), {name: g.numpy() for name, g in zip(weights, found, strict=True)}
