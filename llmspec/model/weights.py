"""Weights drawn from the Plan: the same numbers on every machine and device."""

from __future__ import annotations

import hashlib
from typing import Any

from llmspec.compiler.plan import ModelPlan, TensorPlan


def draw(tensor: TensorPlan, seed: int) -> Any:
    """A tensor's numpy array at step 0; a function of the seed and the tensor's name alone."""
    import numpy as np

    if tensor.init.distribution != "normal":
        fill = np.ones if tensor.init.distribution == "ones" else np.zeros
        return fill(tensor.shape, np.float32)
    name = int.from_bytes(hashlib.sha256(tensor.name.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, name], np.uint64)))
    return generator.standard_normal(tensor.shape, np.float32) * np.float32(tensor.init.std)


def drawn(plan: ModelPlan, seed: int) -> dict[str, Any]:
    """Every weight of the plan at step 0, by name."""
    return {t.name: draw(t, seed) for t in plan.tensors}
