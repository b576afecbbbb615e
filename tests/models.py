"""A small model with drawn weights, opened as `llmspec.open` opens one, without a run; for children of tests too."""

from __future__ import annotations

import functools
import json
from typing import Any

SPEC: dict[str, Any] = {
    "name": "small",
    "device": "CPU",
    "seed": 3,
    "model": {
        "context": 48,
        "d_model": 24,
        "layers": 2,
        "position": {"kind": "rope"},
        "attention": {"heads": 2, "kv_heads": 1},
        "mlp": {"kind": "swiglu", "d_ff": 40},
    },
    "tokenizer": {"kind": "byte"},
    "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
    "phases": {"p": {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "4 steps"}},
    "decoding": {"temperature": 1.0, "max_tokens": 8},
}


@functools.cache
def plan(context: int = 48) -> Any:
    from llmspec.compiler import compile_spec
    from llmspec.spec.schema import Spec

    spec = {**SPEC, "model": {**SPEC["model"], "context": context}}
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


def opened(seed: int = 0, plain: bool = False, chat: bool = False, context: int = 48) -> Any:
    """A LanguageModel; each seed has other weights."""
    from llmspec.decoding.language_model import LanguageModel
    from llmspec.model.device import open_device
    from llmspec.model.weights import draw

    open_device("CPU")
    made = plan(context)
    weights = {t.name: draw(t, seed) * (8 if len(t.shape) > 1 else 1) for t in made.model.tensors}  # no even odds
    return LanguageModel(made, made.tokenizer.train([]), weights, "p", plain, chat=chat)
