"""The weights of cross-attention against a float64 reading of the formula, with one head and with several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import drawn_weights, model_of

from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.model import cross_weights
from llmspec.model.cross_weights import CrossWeights

MODEL: dict[str, Any] = {"layers": 1, "context": 9, "encoder": {"layers": 1, "context": 7}}


def found(weights: dict[str, np.ndarray], plan: Any, source: list[int], read: list[int]) -> np.ndarray:
    looked: np.ndarray = CrossWeights(plan, backend("CPU"), {})(tensors_from_numpy(**weights), source, read)
    return looked


@pytest.mark.parametrize("heads", [1, 2])
def test_weights_are_a_softmax_over_the_source_alone(heads: int) -> None:
    plan = model_of({**MODEL, "attention": {"kind": "multi_head", "heads": heads}})
    weights = drawn_weights(plan, 3)
    source, read = [5, 3, 8, 2], [1, 4, 6]
    looked = found(weights, plan, source, read)
    assert looked.shape == (3, 4) and np.allclose(looked.sum(axis=1), 1, atol=1e-5) and (looked > 0).all()
    longer = found(weights, plan, [*source, 6, 6, 6], read)
    assert not np.allclose(longer[:, :4], looked), "a longer source shares its weights otherwise"
    same = found(weights, plan, source, [1, 4, 2])
    assert np.allclose(same[:2], looked[:2], atol=1e-6), "what comes later changes nothing"


def test_keys_that_are_equal_weigh_alike() -> None:
    plan = model_of({**MODEL, "attention": {"kind": "multi_head", "heads": 2}})
    weights = drawn_weights(plan, 4)
    for name in weights:
        if name.endswith("cross_attention.k_proj.weight"):
            weights[name] = np.zeros_like(weights[name])
    assert np.allclose(found(weights, plan, [5, 3, 8, 2, 7], [1, 4]), 1 / 5, atol=1e-6)


def test_weights_are_those_that_the_model_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of queries and keys as they come to attention, by the formula in float64."""
    plan = model_of({**MODEL, "layers": 2, "attention": {"kind": "grouped_query", "heads": 4, "kv_heads": 2}})
    seen: list[tuple[Any, Any]] = []

    class Watched(cross_weights.Ops):
        def attention(self, q: Any, k: Any, v: Any, ranges: Any, scores: Any) -> Any:
            seen.append((q.realize().numpy(), k.realize().numpy()))
            return super().attention(q, k, v, ranges, scores)

    monkeypatch.setattr(cross_weights, "Ops", Watched)
    source, read = [5, 3, 8, 2, 1], [1, 4, 6, 7]
    made = CrossWeights(plan, backend("CPU", plain=True), {})
    made._graph = made._forward
    looked = made(tensors_from_numpy(**drawn_weights(plan, 5)), source, read)
    assert len(seen) == 2
    exact = []
    for q, k in seen:
        for head in range(4):
            scores = q[0, :4, head].astype(np.float64) @ k[0, :5, head // 2].T.astype(np.float64) / np.sqrt(q.shape[-1])
            e = np.exp(scores - scores.max(axis=1, keepdims=True))
            exact.append(e / e.sum(axis=1, keepdims=True))
    assert np.allclose(looked, np.mean(exact, axis=0), atol=1e-5)
