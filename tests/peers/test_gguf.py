"""GGUF files beside transformers, whose models they are, and beside llama.cpp, which reads them too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import gguf_converted  # noqa: E402
import gguf_files  # noqa: E402
from hf_cases import model_in  # noqa: E402

import llmspec  # noqa: E402

LOGITS = 2e-4
SIZES: dict[str, Any] = {
    "vocab_size": gguf_files.VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GROUPED = {"tie_word_embeddings": False, **SIZES}
ALL_HEADS = {k: v for k, v in GROUPED.items() if k != "num_key_value_heads"}
EXPERTS = {"num_experts_per_tok": 2, "norm_topk_prob": False}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
GELU = {"hidden_act": "gelu_pytorch_tanh"}
CASES: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama, tied, biases": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True),
    "llama 3.1": lambda: transformers.LlamaConfig(**GROUPED, head_dim=32, rope_parameters=LLAMA3),
    "llama, linear": lambda: transformers.LlamaConfig(**GROUPED, rope_parameters=LINEAR),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=None),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen2, yarn": lambda: transformers.Qwen2Config(**GROUPED, rope_parameters=YARN),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=32),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **GROUPED, **EXPERTS, num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=32
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **GROUPED, num_experts_per_tok=2, norm_topk_prob=True, num_experts=4, moe_intermediate_size=32, head_dim=32
    ),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 7}, head_dim=16, query_pre_attn_scalar=16, sliding_window=8
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=gguf_files.VOCAB, n_embd=64, n_layer=3, n_head=4, n_positions=64, n_inner=96
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**ALL_HEADS, **GELU, rope_parameters=PARTIAL),
    "gpt_neox, one after another": lambda: transformers.GPTNeoXConfig(
        **ALL_HEADS, **GELU, rope_parameters=PARTIAL, use_parallel_residual=False
    ),
    "phi": lambda: transformers.PhiConfig(**GROUPED, rope_parameters=PARTIAL),
    "starcoder2": lambda: transformers.Starcoder2Config(**GROUPED, use_bias=True, sliding_window=None),
    "stablelm": lambda: transformers.StableLmConfig(**GROUPED, rope_parameters=PARTIAL),
    "stablelm, parallel, biases": lambda: transformers.StableLmConfig(
        **GROUPED, rope_parameters=PARTIAL, use_parallel_residual=True, use_qkv_bias=True
    ),
    "olmo2": lambda: transformers.Olmo2Config(**GROUPED, pad_token_id=None),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """(a model of transformers, the same as a file)."""
    config = CASES[request.param]()
    model = model_in(tmp_path, config, 5)
    return model, gguf_converted.convert(tmp_path, config, tmp_path / "model.gguf")


def tokens(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(3).integers(6, gguf_files.VOCAB, (rows, 40)).astype(np.int32)


def test_logits_are_those_of_transformers(case: tuple[Any, Path]) -> None:
    model, path = case
    opened = llmspec.open(path)
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens())).logits.numpy()
    assert np.abs(opened.logits(tokens()) - wanted).max() < LOGITS * max(1.0, np.abs(wanted).max())


def test_logits_are_those_of_llama_cpp(case: tuple[Any, Path]) -> None:
    """As near as its tables of GELU, and its float16, let them be."""
    llama_cpp = pytest.importorskip("llama_cpp")
    _, path = case
    theirs = llama_cpp.Llama(
        str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    opened = llmspec.open(path)
    ids = tokens(1)[0].tolist()
    theirs.eval(ids)
    wanted = np.array(theirs.scores[: len(ids)])
    found = opened.logits(ids)[0]
    assert np.abs(found - wanted).max() < 5e-3 * max(1.0, np.abs(wanted).max())
    theirs.close()
