"""How good answers are that are numbers: errors, and how they go together with the true ones.

n texts; everything in float64.
"""

from __future__ import annotations

import numpy as np

from llmspec.core.metrics import Metric


def number_scores(said: np.ndarray, true: np.ndarray) -> tuple[Metric, ...]:
    """Of answers (n,) and true numbers (n,), in their own unit: MSE, MAE, R² (1 − squared errors over squared distances
    from the mean), and the correlations of the numbers (Pearson) and of their ranks (Spearman); 0 where one side has no
    spread."""
    errors = said - true
    squares = float(((true - true.mean()) ** 2).sum()) if len(true) else 0.0
    explained = 1 - float((errors**2).sum()) / squares if squares else 0.0
    return (
        Metric("MSE", float((errors**2).mean()) if len(errors) else 0.0, better="lower"),
        Metric("MAE", float(np.abs(errors).mean()) if len(errors) else 0.0, better="lower"),
        Metric("R2", explained, better="higher"),
        Metric("Pearson", correlation(said, true), better="higher"),
        Metric("Spearman", correlation(ranks(said), ranks(true)), better="higher"),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, of (n,) and (n,); 0 where one has no spread."""
    if len(a) < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else 0.0


def ranks(x: np.ndarray) -> np.ndarray:
    """(n,) ranks from 1, equal numbers sharing the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return found
