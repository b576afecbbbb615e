"""Rules by which weights are updated, with their numbers: one record a rule.

Optimizers put them into an `Update` (llmspec.parts.ops), and `ops.update` carries it out: backends/plain/updates.py
says what each rule means, and backends/cpu/updates.py has calls of C for those that are slow otherwise.
"""

from __future__ import annotations

from typing import NamedTuple


class AdamStep(NamedTuple):
    """Adam's (Kingma & Ba 2015, algorithm 1), of a weight and its two moments. `scalars` are the learning rate and the
    two bias corrections."""

    beta1: float
    beta2: float
    eps: float
    l2: float
    """Decay that is added to the gradient."""
    decay: float
    """Decay that is not."""


class LionStep(NamedTuple):
    """Lion's (Chen et al. 2023, algorithm 2), of a weight and its momentum."""

    beta1: float
    beta2: float
    decay: float


class ScheduleFreeStep(NamedTuple):
    """That of schedule-free AdamW (Defazio et al. 2024, algorithm 1): of the point y at which the gradient was taken,
    the newest weights z, their average x, between which y lies, the second moment, and the sum (1,) of the squares of
    all learning rates so far. `scalars` are the learning rate and the bias correction of the second moment."""

    beta1: float
    beta2: float
    eps: float
    decay: float


class AdafactorStep(NamedTuple):
    """Adafactor's (Shazeer & Stern 2018, algorithms 4 and 5), of a weight (…, M, N) and the mean squares of its rows
    (…, M) and columns (…, N), or those of each number. `scalars` are the learning rate, how much of the mean squares is
    kept, and how much is new."""

    eps1: float
    eps2: float
    clip_threshold: float
    decay: float
    scale_parameter: bool


class MuonStep(NamedTuple):
    """Muon's (Jordan et al. 2024), of a matrix, or of each of a stack, and its momentum; scaled by √max(1, rows /
    columns)."""

    momentum: float
    nesterov: bool
    decay: float
    iterations: int


Rule = AdamStep | LionStep | ScheduleFreeStep | AdafactorStep | MuonStep
"""The step of a rule, with its numbers, which are those of all steps."""
