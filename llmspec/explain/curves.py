"""Curves of a run, and what can be read off them. Losses are nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RISE = 0.01
"""A validation loss this share above its lowest has risen: less is within what one batch more or less would do."""
WINDOW = 0.05
"""Share of the steps over which a training loss is averaged before it is compared."""


@dataclass(frozen=True)
class Curve:
    """Values at steps (from 1)."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float | None:
        return self.values[-1] if self.values else None

    def around(self, step: int) -> float:
        """Mean over a window that ends at `step`, since one batch says little."""
        width = max(1, round(WINDOW * len(self.steps)))
        before = [v for s, v in zip(self.steps, self.values, strict=True) if s <= step]
        return sum(v := before[-width:]) / len(v) if before else math.nan


@dataclass(frozen=True)
class Score:
    """Validation of one source at one step: every validation token once."""

    step: int
    tokens: int
    characters: int
    nats: float
    nats_per_token: float
    nats_per_character: float
    perplexity: float
    """Per token: e to the nats per token."""


@dataclass(frozen=True)
class Validation:
    """All scores of one source."""

    source: str
    scores: tuple[Score, ...]

    @property
    def curve(self) -> Curve:
        return Curve(tuple(s.step for s in self.scores), tuple(s.nats_per_token for s in self.scores))


def curve(rows: Sequence[dict[str, Any]], key: str) -> Curve:
    """One column of the rows that have it."""
    found = [(int(r["step"]), float(r[key])) for r in rows if isinstance(r.get(key), int | float)]
    return Curve(tuple(s for s, _ in found), tuple(v for _, v in found))


def validations(rows: Sequence[dict[str, Any]]) -> tuple[Validation, ...]:
    """The scores of each source, from rows {step, validation: {source: {nats, tokens, characters}}}."""
    found: dict[str, list[Score]] = {}
    for row in rows:
        for source, sums in (row.get("validation") or {}).items():
            found.setdefault(source, []).append(_score(int(row["step"]), sums))
    return tuple(Validation(source, tuple(scores)) for source, scores in found.items())


def _score(step: int, sums: dict[str, Any]) -> Score:
    nats, tokens, characters = float(sums["nats"]), int(sums["tokens"]), int(sums["characters"])
    per_token = nats / max(1, tokens)
    return Score(step, tokens, characters, nats, per_token, nats / max(1, characters), math.exp(min(per_token, 700.0)))


def overfitting(training: Curve, held_out: Sequence[Validation]) -> list[str]:
    """Sources whose validation loss has risen since its lowest while the training loss fell."""
    found = []
    for validation in held_out:
        scores = validation.scores
        if len(scores) < 2:
            continue
        best, last = min(scores, key=lambda s: s.nats_per_token), scores[-1]
        then, now = training.around(best.step), training.around(last.step)
        if last.nats_per_token > best.nats_per_token * (1 + RISE) and now < then:
            found.append(
                f"overfitting to {validation.source}: since step {best.step:,} its validation loss rose from "
                f"{best.nats_per_token:.3f} to {last.nats_per_token:.3f}, while the training loss fell from {then:.3f} "
                f"to {now:.3f}. More text, fewer steps or dropout would help."
            )
    return found
