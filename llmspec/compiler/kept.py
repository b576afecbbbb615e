"""Whether a model's keys and values can be rounded to what `decoding.kv_cache` says."""

from __future__ import annotations

from llmspec.compiler import walk
from llmspec.compiler.draft import Draft
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem

KEPT_BLOCK = 32
"""Numbers of a head that share a scale where keys and values are rounded to 8 bits."""


def kept_unfit(model: ModelPlan, kind: str) -> str:
    """Why keys and values of a model cannot be rounded to `kind`; '' where they can."""
    widths = sorted({dims.head_dim for dims in walk.layer_dims(model) if dims.head_dim % KEPT_BLOCK})
    if kind != "q8_0" or not widths:
        return ""
    shown = ", ".join(map(str, widths))
    return f"a KV cache of {kind} rounds {KEPT_BLOCK} numbers of a head together, and heads are {shown} wide"


def check_kept(draft: Draft) -> Draft:
    """A type of the KV cache that the network's heads do not fit is a problem."""
    assert draft.network is not None and draft.sections.decoding is not None
    unfit = kept_unfit(draft.network, draft.sections.decoding.kv_cache)
    path = ("decoding", "kv_cache")
    problem = Problem(unfit, path, "kv_cache: f16, or heads of a multiple", "no token could be decoded")
    return draft.with_problems([problem] if unfit else [])
