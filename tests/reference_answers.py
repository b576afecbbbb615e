"""Losses of log-probabilities of answers in float64, from their papers.

T tokens of a text, N of all places of a batch, V vocabulary. A text is (row, first place, places) of what its answer's
tokens are predicted from; texts 2i and 2i + 1 are chosen and rejected.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def logps(logits: np.ndarray, targets: np.ndarray, spans: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) log-probabilities of answers under logits (B, T, V), and (n,) their tokens: place by place."""
    found, sizes = [], []
    for row, begin, size in spans:
        own = log_softmax(logits[row, begin : begin + size])
        found.append(sum(own[i, targets[row, begin + i]] for i in range(size)))
        sizes.append(size)
    return np.array(found), np.array(sizes, float)


def dpo(part: Any, own: np.ndarray, sizes: np.ndarray, reference: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """Sums over pairs that count `w` each: loss and what is told beside."""
    ratio = own - (0 if part.reference_free else reference)
    by_token = part.length_normalised or (part.length_normalised is None and part.loss == "ipo")
    score = ratio / sizes if by_token else ratio
    h, e, b = score[0::2] - score[1::2], part.label_smoothing, part.beta
    if part.loss == "ipo":
        each = (h - 1 / (2 * b)) ** 2
    elif part.loss == "hinge":
        each = np.maximum(0, 1 - b * h)
    else:
        z = b * h - part.target_margin
        right, wrong = np.log1p(np.exp(-z)), np.log1p(np.exp(z))
        each = (1 - e) * right + e * wrong if part.loss == "sigmoid" else ((1 - e) * right - e * wrong) / (1 - 2 * e)
    nll = -(own[0::2] * w).sum() / (sizes[0::2] * w).sum() * w.sum()
    shown = score if part.reference_free else ratio
    return {
        "loss": (each * w).sum() + part.rpo_alpha * nll,
        "nll_loss": nll,
        **rewards(b * shown, w),
        "logps/chosen": (own[0::2] * w).sum(),
        "logps/rejected": (own[1::2] * w).sum(),
    }


def rewards(r: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """What answers are worth."""
    good, bad = r[0::2], r[1::2]
    return {
        "rewards/chosen": (good * w).sum(),
        "rewards/rejected": (bad * w).sum(),
        "rewards/margins": ((good - bad) * w).sum(),
        "rewards/accuracies": ((good > bad) * w).sum(),
    }


def orpo(part: Any, own: np.ndarray, sizes: np.ndarray, reference: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """Equations 4 to 7 of the paper: the likelihood of an answer is the geometric mean of its tokens' probabilities."""
    mean = own / sizes
    odds = mean - np.log1p(-np.exp(mean))
    h = odds[0::2] - odds[1::2]
    ratio = -np.log1p(np.exp(-h))
    nll = -(own[0::2] * w).sum() / (sizes[0::2] * w).sum() * w.sum()
    return {
        "loss": nll - part.beta * (ratio * w).sum(),
        "nll_loss": nll,
        **rewards(part.beta * mean, w),
        "logps/chosen": (mean[0::2] * w).sum(),
        "logps/rejected": (mean[1::2] * w).sum(),
        "log_odds_ratio": (ratio * w).sum(),
        "log_odds_chosen": (h * w).sum(),
    }


def kto(
    part: Any, own: np.ndarray, reference: np.ndarray, good: np.ndarray, kl: float, w: np.ndarray
) -> dict[str, float]:
    """Equations 7 and 8 of the paper, with lambda − v as the loss of an answer."""
    r, z = own - reference, max(0.0, kl)
    value = np.where(good > 0, sigmoid(part.beta * (r - z)), sigmoid(part.beta * (z - r)))
    most = np.where(good > 0, part.desirable_weight, part.undesirable_weight)
    on, off = good * w, (1 - good) * w
    return {
        "loss": (most * (1 - value) * w).sum(),
        "rewards/chosen": (part.beta * r * on).sum(),
        "rewards/rejected": (part.beta * r * off).sum(),
        "logps/chosen": (own * on).sum(),
        "logps/rejected": (own * off).sum(),
        "desirable": on.sum(),
        "kl": z * w.sum(),
    }
