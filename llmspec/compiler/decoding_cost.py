"""What drawing one token reads: weights and, of a text, keys and values. It is what bounds the speed of decoding, since
a product with one row does little else than read its matrix."""

from __future__ import annotations

from collections.abc import Mapping

from llmspec.compiler import walk
from llmspec.compiler.plan import ModelPlan
from llmspec.core.weight_types import TYPES

FLOAT = "f32"
ROWS = 16
"""Answers that are drawn side by side by default: from here on a CPU is no faster, since it computes all the time."""


def read_shares(model: ModelPlan) -> dict[str, float]:
    """Tensors that a drawn token reads, by name, and how much of each on average: all of it, or the share of experts
    that the token takes. It reads none of an encoder, nor of tables in which one row is looked up."""
    tied = any(getattr(head, "tied", False) for head in model.heads.values())
    looked_up = {t.name for t in model.tensors if t.role == "embedding"}
    looked_up -= {f"{walk.EMBEDDING}.weight"} if tied else set()
    encoder = walk.prefix(model.encoder) if model.encoder is not None and model.generates else None
    rates = walk.rates(model)
    return {
        t.name: min(1.0, rates.get(t.name, 1.0)) if len(t.shape) > 2 else 1.0
        for t in model.tensors
        if t.name not in looked_up and not (encoder and t.name.startswith(encoder))
    }


def weight_bytes(model: ModelPlan, types: Mapping[str, str]) -> float:
    """Bytes of weights that a drawn token reads, on average. `types` are those of `core.weight_types` in which tensors
    lie in memory, by name; others are float32."""
    shapes = {t.name: t.shape for t in model.tensors}
    return sum(TYPES[types.get(n, FLOAT)].size(shapes[n]) * share for n, share in read_shares(model).items())
