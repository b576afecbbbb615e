"""Models with an encoder that together show what such a model may have."""

from __future__ import annotations

from typing import Any

from llmspec.parts.residual import FORMS

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"encoder": {}},
    "apart": {
        "layers": 1,
        "encoder": {
            "layers": 3,
            "context": 11,
            "attention": {"kind": "multi_head", "heads": 2, "bias": True},
            "position": {"kind": "alibi"},
            "mlp": {"kind": "gelu", "d_ff": 20},
            "norm": {"kind": "layernorm"},
            "residual": "post",
        },
        "attention": {"kind": "grouped_query", "heads": 4, "kv_heads": 2, "head_dim": 6},
        "cross_attention": {
            "kind": "grouped_query",
            "heads": 4,
            "kv_heads": 1,
            "head_dim": 6,
            "scale": 1.0,
            "softcap": 3.0,
            "qk_norm": {"kind": "rmsnorm"},
            "bias": True,
        },
        "position": {"kind": "sinusoidal"},
        "heads": {"lm": {"kind": "lm", "tied": False}},
    },
    "kinds": {
        "encoder": {
            "blocks": {"near": {"mask": {"kind": "bidirectional", "window": 3}}, "far": {"position": {"kind": "none"}}},
            "pattern": ["near", "far"],
            "position": {"kind": "learned"},
        },
        "blocks": {"a": {"mask": {"kind": "causal", "window": 3}}, "b": {"residual": "parallel"}},
        "pattern": ["a", "b"],
        "position": {"kind": "learned"},
        "embedding": {"kind": "tokens", "scale": "sqrt_d_model"},
    },
    **{form: {"residual": form, "encoder": {"layers": 1, "residual": "pre"}} for form in FORMS},
}
