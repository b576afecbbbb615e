"""How good answers about labels are: accuracy, F1, calibration, and which label is taken for which.

n texts, C labels; everything in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmspec.core.metrics import Metric
from llmspec.decoding.classifying import probabilities

if TYPE_CHECKING:
    import numpy as np

BINS = 15
"""Of confidence, by which calibration is measured (Guo et al. 2017, arXiv:1706.04599, section 2)."""


def f1_scores(true: np.ndarray, said: np.ndarray) -> tuple[float, float, list[tuple[int, float, float, float]]]:
    """(macro F1, micro F1, of each label: texts that have it, precision, recall, F1) of yes and no (n, C) bool.

    2·right / (said + true). A label that is neither said nor true has 0, and is no part of the macro mean.
    """
    import numpy as np

    right, asked, given = (true & said).sum(0), true.sum(0), said.sum(0)
    each = np.where(asked + given > 0, 2 * right / np.maximum(asked + given, 1), 0.0)
    rows = [
        (int(a), r / g if g else 0.0, r / a if a else 0.0, float(f))
        for r, a, g, f in zip(right.tolist(), asked.tolist(), given.tolist(), each, strict=True)
    ]
    micro = 2 * right.sum() / max(1, (asked + given).sum())
    there = each[asked + given > 0]
    return float(there.mean()) if len(there) else 0.0, float(micro), rows


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: the mean, over answers, of how far the share of right ones in the answer's bin of
    confidence is from the mean confidence there (Guo et al. 2017, equation 3)."""
    import numpy as np

    if not len(confidence):
        return 0.0
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, right, BINS) - np.bincount(bins, confidence, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def label_scores(
    logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...]
) -> tuple[tuple[Metric, ...], dict[str, Any]]:
    """(metrics, JSON-able tables) of logits (n, C) and what is true: label numbers (n,), or yes and no (n, C)."""
    import numpy as np

    n, multi = len(logits), targets.ndim == 2
    chances = probabilities(logits, multi)
    if multi:
        true, said = targets > 0.5, chances > 0.5
        accuracy = float((true == said).all(1).mean()) if n else 0.0
        error = calibration_error(np.where(said, chances, 1 - chances).reshape(-1), (true == said).reshape(-1))
    else:
        guess = chances.argmax(1)
        true, said = (np.eye(len(labels), dtype=bool)[i] for i in (targets, guess))
        accuracy = float((guess == targets).mean()) if n else 0.0
        error = calibration_error(chances.max(1), guess == targets)
    macro, micro, rows = f1_scores(true, said)
    metrics = (
        Metric("accuracy", accuracy, better="higher"),
        Metric("F1 macro", macro, better="higher"),
        Metric("F1 micro", micro, better="higher"),
        Metric("ECE", error, better="lower"),
    )
    table: dict[str, Any] = {"labels": list(labels), "scores": [list(row) for row in rows]}
    if not multi:
        counts = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(counts, (targets, guess), 1)
        table["confusion"] = [[int(i), int(j), int(counts[i, j])] for i, j in zip(*np.nonzero(counts), strict=True)]
    return metrics, table
