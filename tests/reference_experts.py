"""A second implementation of mixtures of experts: numpy, float64, token by token; part of tests/reference.py.

Shape letters: T tokens, E experts, k of them for each token, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Weights = Mapping[str, Array]
FeedForward = Callable[[Any, Weights, str, Array], Array]
"""A plain or gated layer: of the part, the weights, their prefix and the input."""


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ROUTED: list[tuple[str, Any, Array, Array]] = []
"""Of each mixture of experts that was computed: its name, the part, the scores (T, E), and which experts (T, k)."""


def mixture(part: Any, w: Weights, name: str, x_TD: Array, feed_forward: FeedForward) -> Array:
    """Token by token, expert by expert (Jiang et al. 2024, section 2.1; DeepSeek-AI 2024, equations 12 to 16)."""
    logits = x_TD @ w[f"{name}.router.weight"].T
    scores = sigmoid(logits) if part.router == "sigmoid" else softmax(logits)
    wanted = scores + (w[f"{name}.router.correction"] if part.router_bias else 0.0)
    chosen = np.argsort(-wanted, axis=-1, kind="stable")[:, : part.top_k]
    ROUTED.append((name, part, scores, chosen))
    out = np.zeros_like(x_TD)
    for t, x in enumerate(x_TD):
        for e in chosen[t]:
            own = {key: value[e] for key, value in w.items() if key.startswith(f"{name}.experts.")}
            share = scores[t, e] / scores[t, chosen[t]].sum() if part.normalise else scores[t, e]
            out[t] += part.scale * share * feed_forward(part.expert, own, f"{name}.experts", x[None])[0]
    if part.shared is not None:
        gate = sigmoid(x_TD @ w[f"{name}.shared_gate.weight"].T) if part.shared_gate else 1.0
        out = out + gate * feed_forward(part.shared, w, f"{name}.shared", x_TD)
    return out


def balance(filled_BT: Array | None = None) -> float:
    """The load-balancing loss of everything in ROUTED, each layer over all of its rows (Fedus et al. 2022, eq. 4-6);
    of tokens where `filled_BT` is not 0 alone, if it is given."""
    total = 0.0
    for name in dict.fromkeys(entry[0] for entry in ROUTED):
        rows = [entry for entry in ROUTED if entry[0] == name]
        part, scores = rows[0][1], np.concatenate([r[2] for r in rows])
        chosen = np.concatenate([r[3] for r in rows])
        if part.router == "sigmoid":
            scores = scores / scores.sum(-1, keepdims=True)
        if filled_BT is not None:
            kept = filled_BT.reshape(-1) != 0
            scores, chosen = scores[kept], chosen[kept]
        share = [(chosen == e).sum() / len(chosen) for e in range(part.experts)]
        total += part.balance * part.experts * float(np.dot(share, scores.mean(0)))
    return total
