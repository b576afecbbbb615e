"""Models of transformers as GGUF files, as llama.cpp's converter writes them: names by the library `gguf`, rows of
LLaMA's queries and keys in its order, Gemma's norms with 1 added. The reference that our tables are held against."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf_files
import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "olmo2": "olmo2",
}
KEYS = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "block_count": ("num_hidden_layers", "n_layer"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "use_parallel_residual": ("use_parallel_residual",),
}
"""Key of metadata -> the field of a config that it is."""


def metadata(config: Any) -> dict[str, Any]:
    """What the converter writes of a config."""
    architecture = ARCHITECTURES[config.model_type]
    found: dict[str, Any] = {}
    for key, names in KEYS.items():
        value = next((v for n in names if (v := getattr(config, n, None)) is not None), None)
        if value is not None:
            found[key] = value
    if config.model_type.startswith("gemma"):
        found["attention.sliding_window"] = config.sliding_window
    if config.model_type == "mixtral":
        found.pop("expert_feed_forward_length", None)
    found |= rope(config, found)
    own = gguf_files.tokenizer()
    return {"general.architecture": architecture, **{f"{architecture}.{k}": v for k, v in found.items()}, **own}


def rope(config: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions."""
    said = getattr(config, "rope_parameters", None)
    if not said:
        return {}
    said = said.get("full_attention", said)
    head_dim = found.get("attention.key_length", config.hidden_size // config.num_attention_heads)
    keys: dict[str, Any] = {"rope.freq_base": float(said["rope_theta"])}
    keys["rope.dimension_count"] = int(head_dim * said.get("partial_rotary_factor", 1.0))
    if said["rope_type"] in ("linear", "yarn"):
        keys |= {"rope.scaling.type": said["rope_type"], "rope.scaling.factor": float(said["factor"])}
    if said["rope_type"] == "yarn":
        keys["rope.scaling.original_context_length"] = said["original_max_position_embeddings"]
    return keys


def tensors(folder: Path, config: Any) -> dict[str, np.ndarray]:
    """The tensors of a folder as the converter writes them."""
    architecture = ARCHITECTURES[config.model_type]
    number = next(a for a, name in MODEL_ARCH_NAMES.items() if name == architecture)
    layers = getattr(config, "num_hidden_layers", None) or config.n_layer
    names = get_tensor_name_map(MODEL_ARCH(number), layers)
    found: dict[str, np.ndarray] = {}
    for name, array in stacked(load_file(folder / "model.safetensors")).items():
        if name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")):
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        found[theirs] = changed(name, array, config)
    if getattr(config, "tie_word_embeddings", False):
        found.pop("output.weight", None)
    factors = frequencies(config)
    return found | ({} if factors is None else {"rope_freqs.weight": factors})


def frequencies(config: Any) -> np.ndarray | None:
    """What wavelengths are multiplied with, of Llama 3.1's scaling."""
    said = getattr(config, "rope_parameters", None) or {}
    if said.get("rope_type") != "llama3":
        return None
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    inverse = 1.0 / (said["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim))
    old, low, high = (said[n] for n in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    factors = []
    for wavelength in 2 * np.pi / inverse:
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(said["factor"])
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / said["factor"] + smooth))
    return np.array(factors, np.float32)


def stacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Experts that lie one by one, together, under a name that the library maps."""
    found, experts = {}, dict[str, dict[int, np.ndarray]]()
    for name, array in arrays.items():
        if match := re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight", name):
            experts.setdefault(f"{match[1]}.{match[3]}.weight", {})[int(match[2])] = array
        else:
            found[name] = array
    renamed = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for name, own in experts.items():
        last = name.split(".")[-2]
        key = re.sub(r"block_sparse_moe\.experts\.\w+", f"mlp.experts.{renamed.get(last, last)}", name)
        found[key] = np.stack([own[i] for i in range(len(own))])
    return found


def changed(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """A tensor in the order, and with the numbers, that the format has."""
    kind = config.model_type
    if kind in ("llama", "mistral", "mixtral") and (match := re.search(r"\.(q|k)_proj\.", name)):
        heads = config.num_attention_heads if match[1] == "q" else config.num_key_value_heads
        return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    if kind == "gpt2" and array.ndim == 2 and re.search(r"\.(c_attn|c_proj|c_fc)\.weight", name):
        return array.T
    if kind == "gpt_neox" and "query_key_value" in name:
        per = array.reshape(config.num_attention_heads, 3, -1, *array.shape[1:])
        return np.concatenate([per[:, i].reshape(-1, *array.shape[1:]) for i in range(3)])
    return array


def convert(folder: Path, config: Any, path: Path, types: dict[str, str] | None = None) -> Path:
    """A folder that transformers has saved, as a file."""
    return gguf_files.write(path, metadata(config), tensors(folder, config), types)
