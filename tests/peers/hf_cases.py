"""Drawn configs of transformers' families, small and with odd sizes, and models of them with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from hf_folders import write_tokenizer
from hypothesis import strategies as st

transformers.utils.logging.disable_progress_bar()

CONTEXT, VOCAB = 40, 267
Draw = Callable[..., Any]


def _sizes(draw: Draw, *, kv: bool = True, head_dim: bool = True, even: int = 2) -> dict[str, Any]:
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * groups if kv else draw(st.integers(1, 4))
    width = draw(st.sampled_from([2, 3, 5, 6])) * even
    own = draw(st.sampled_from([4, 6, 10, 16])) if head_dim else width
    found: dict[str, Any] = {
        "vocab_size": VOCAB + draw(st.integers(0, 5)),
        "hidden_size": heads * width,
        "intermediate_size": draw(st.integers(5, 70)),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": heads,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": draw(st.booleans()),
    }
    found |= {"num_key_value_heads": kv_heads} if kv else {}
    return found | ({"head_dim": own} if head_dim else {})


def _rope(draw: Draw, partial: bool = False) -> dict[str, Any]:
    kind = draw(st.sampled_from(["default", "linear", "dynamic", "llama3", "yarn"]))
    found: dict[str, Any] = {"rope_type": kind, "rope_theta": draw(st.sampled_from([100.0, 10000.0, 500000.0]))}
    if kind != "default":
        found["factor"] = draw(st.sampled_from([1.5, 4.0]))
    if kind == "llama3":
        found |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    if kind == "yarn":
        found |= {"original_max_position_embeddings": 10}
        found |= draw(st.sampled_from([{}, {"attention_factor": 1.25}, {"beta_fast": 16.0, "beta_slow": 2.0}]))
    if partial:
        found["partial_rotary_factor"] = 0.5
    return found


def _acts(draw: Draw) -> str:
    return str(draw(st.sampled_from(["silu", "gelu_pytorch_tanh", "gelu", "relu"])))


def _plain(draw: Draw) -> str:
    return str(draw(st.sampled_from(["gelu_new", "gelu", "relu", "silu"])))


@st.composite
def llama(draw: Draw) -> Any:
    biases = {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
    return transformers.LlamaConfig(
        **_sizes(draw), **biases, hidden_act=_acts(draw), rms_norm_eps=draw(st.sampled_from([1e-5, 1e-2])),
        rope_parameters=_rope(draw),
    )  # fmt: skip


@st.composite
def mistral(draw: Draw) -> Any:
    window = draw(st.sampled_from([None, 3, 7, 400]))
    return transformers.MistralConfig(**_sizes(draw), sliding_window=window, rope_parameters=_rope(draw))


def _qwen(draw: Draw) -> dict[str, Any]:
    windows = {"use_sliding_window": draw(st.booleans()), "sliding_window": 5, "max_window_layers": 1}
    return {**windows, "rope_parameters": _rope(draw)}


@st.composite
def qwen2(draw: Draw) -> Any:
    return transformers.Qwen2Config(**_sizes(draw, head_dim=False), **_qwen(draw))


@st.composite
def qwen3(draw: Draw) -> Any:
    return transformers.Qwen3Config(**_sizes(draw), **_qwen(draw), attention_bias=draw(st.booleans()))


def _gemma(draw: Draw) -> dict[str, Any]:
    found = _sizes(draw)
    found |= {"query_pre_attn_scalar": draw(st.sampled_from([4, 13])), "attention_bias": draw(st.booleans())}
    found |= {"attn_logit_softcapping": draw(st.sampled_from([None, 5.0]))}
    return found | {"sliding_window": draw(st.sampled_from([3, 9]))}


@st.composite
def gemma2(draw: Draw) -> Any:
    capped = draw(st.sampled_from([None, 3.0]))
    return transformers.Gemma2Config(**_gemma(draw), final_logit_softcapping=capped)


@st.composite
def gemma3(draw: Draw) -> Any:
    return transformers.Gemma3TextConfig(**_gemma(draw), sliding_window_pattern=draw(st.integers(1, 3)))


@st.composite
def gpt2(draw: Draw) -> Any:
    heads = draw(st.integers(1, 4))
    return transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=heads * draw(st.integers(3, 9)), n_layer=draw(st.integers(1, 3)), n_head=heads,
        n_positions=CONTEXT, n_inner=draw(st.sampled_from([None, 37])), activation_function=_plain(draw),
        tie_word_embeddings=draw(st.booleans()), layer_norm_epsilon=draw(st.sampled_from([1e-5, 1e-2])),
    )  # fmt: skip


@st.composite
def gpt_neox(draw: Draw) -> Any:
    sizes = _sizes(draw, kv=False, head_dim=False, even=4)
    return transformers.GPTNeoXConfig(
        **sizes, hidden_act=_plain(draw), use_parallel_residual=draw(st.booleans()),
        attention_bias=draw(st.booleans()), rope_parameters=_rope(draw, partial=True),
    )  # fmt: skip


@st.composite
def phi(draw: Draw) -> Any:
    sizes = {**_sizes(draw, head_dim=False, even=4), "tie_word_embeddings": False}
    return transformers.PhiConfig(**sizes, hidden_act=_plain(draw), rope_parameters=_rope(draw, partial=True))


@st.composite
def olmo2(draw: Draw) -> Any:
    biases = {"attention_bias": draw(st.booleans())}
    sizes = _sizes(draw, head_dim=False)
    # Its usual padding id is a word here, and torch gives the vector of padding no gradient.
    return transformers.Olmo2Config(**sizes, **biases, rope_parameters=_rope(draw), pad_token_id=None)


@st.composite
def starcoder2(draw: Draw) -> Any:
    return transformers.Starcoder2Config(
        **_sizes(draw, head_dim=False), use_bias=draw(st.booleans()), hidden_act=_plain(draw),
        sliding_window=draw(st.sampled_from([None, 6])), rope_parameters=_rope(draw),
    )  # fmt: skip


@st.composite
def stablelm(draw: Draw) -> Any:
    return transformers.StableLmConfig(
        **_sizes(draw, head_dim=False, even=4), use_qkv_bias=draw(st.booleans()),
        use_parallel_residual=draw(st.booleans()), rope_parameters=_rope(draw, partial=True),
    )  # fmt: skip


def _experts(draw: Draw, many: str = "num_experts") -> dict[str, Any]:
    experts = draw(st.integers(2, 9))
    return {many: experts, "num_experts_per_tok": draw(st.integers(1, min(4, experts)))}


@st.composite
def mixtral(draw: Draw) -> Any:
    sizes = {**_sizes(draw), **_experts(draw, "num_local_experts"), "rope_parameters": _rope(draw)}
    return transformers.MixtralConfig(**sizes, sliding_window=draw(st.sampled_from([None, 3, 400])))


def _qwen_moe(draw: Draw, **sizes: Any) -> dict[str, Any]:
    more = {"norm_topk_prob": draw(st.booleans()), "moe_intermediate_size": draw(st.integers(5, 40))}
    return {**sizes, **_experts(draw), **more, "rope_parameters": _rope(draw)}


@st.composite
def qwen2_moe(draw: Draw) -> Any:
    shared = {"shared_expert_intermediate_size": draw(st.integers(5, 40)), "qkv_bias": draw(st.booleans())}
    return transformers.Qwen2MoeConfig(**_qwen_moe(draw, **_sizes(draw, head_dim=False), **shared))


@st.composite
def qwen3_moe(draw: Draw) -> Any:
    return transformers.Qwen3MoeConfig(**_qwen_moe(draw, **_sizes(draw)), attention_bias=draw(st.booleans()))


@st.composite
def glm4_moe(draw: Draw) -> Any:
    sizes = {**_sizes(draw, even=4), **_experts(draw, "n_routed_experts"), "rope_parameters": _rope(draw, partial=True)}
    sizes |= {"moe_intermediate_size": draw(st.integers(5, 40)), "n_shared_experts": 1}
    # Half of a head turns, and a base that grows needs four numbers of it, in transformers as here.
    sizes |= {"head_dim": draw(st.sampled_from([8, 12, 16])), "first_k_dense_replace": draw(st.integers(0, 2))}
    return transformers.Glm4MoeConfig(
        **sizes, attention_bias=draw(st.booleans()), use_qk_norm=draw(st.booleans()),
        norm_topk_prob=draw(st.booleans()), routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
    )  # fmt: skip


FAMILIES: dict[str, Any] = {
    made.__name__: made
    for made in (
        gemma2, gemma3, glm4_moe, gpt2, gpt_neox, llama, mistral, mixtral, olmo2, phi,
        qwen2, qwen2_moe, qwen3, qwen3_moe, stablelm, starcoder2,
    )
}  # fmt: skip
"""By the names of the mapping tables."""


def model_in(folder: Path, config: Any, seed: int) -> Any:
    """A model with random weights, saved into a folder together with a tokenizer."""
    torch.manual_seed(seed)
    plain = {"experts_implementation": "eager"} if hasattr(config, "num_experts_per_tok") else {}
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", **plain
    )
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.15 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.data = 0.3 * torch.randn_like(buffer)
    model.tie_weights()
    model.eval().save_pretrained(folder)
    write_tokenizer(folder, min(config.vocab_size, VOCAB))
    return model
