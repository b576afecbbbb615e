"""Curves of a run by name and unit, and what can be read off them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from llmspec.core.metrics import Metric

RISE = 0.01
"""A validation this share worse than its best has become worse: less is within what one batch more or less would do."""
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
class NamedCurve:
    """A number of each step, such as the loss."""

    name: str
    unit: str
    curve: Curve


@dataclass(frozen=True)
class Score:
    """Validation of one source at one step, over all of its validation text."""

    step: int
    metrics: tuple[Metric, ...]
    """What says how good the model is comes first."""

    @property
    def main(self) -> Metric:
        return self.metrics[0]

    def value(self, name: str, unit: str | None = None) -> float | None:
        """The metric of a name, and of a unit where it is given in several; None where there is none."""
        return next((m.value for m in self.metrics if m.name == name and unit in (None, m.unit)), None)


@dataclass(frozen=True)
class ValidationCurve:
    """All scores of one source."""

    source: str
    scores: tuple[Score, ...]

    @property
    def best(self) -> Score:
        """The score whose first metric is best."""
        sign = -1 if self.scores[-1].main.better == "higher" else 1
        return min(self.scores, key=lambda s: sign * s.main.value)

    def curve(self, name: str = "", unit: str | None = None) -> Curve:
        """One metric of the source; the first one where no name is given."""
        name, unit = (name, unit) if name else (self.scores[-1].main.name, self.scores[-1].main.unit)
        found = [(s.step, v) for s in self.scores if (v := s.value(name, unit)) is not None]
        return Curve(tuple(s for s, _ in found), tuple(v for _, v in found))


def curve(rows: Sequence[dict[str, Any]], key: str) -> Curve:
    """One column of the rows that have it."""
    found = [(int(r["step"]), float(r[key])) for r in rows if isinstance(r.get(key), int | float)]
    return Curve(tuple(s for s, _ in found), tuple(v for _, v in found))


def named_curves(rows: Sequence[dict[str, Any]], units: Mapping[str, str]) -> tuple[NamedCurve, ...]:
    """The curves of what a phase notes of its steps, by the units that it notes once; the loss where it has none."""
    return tuple(NamedCurve(name, unit, curve(rows, name)) for name, unit in (units or {"loss": ""}).items())


@dataclass(frozen=True)
class TimePart:
    """What some of the seconds of a phase's steps went into."""

    name: str
    seconds: float
    share: float
    """Of the seconds of all steps."""
    promised: float | None = None
    """The share that was estimated before the first step; None where none was."""


def parts_of(
    rows: Sequence[dict[str, Any]], promise: Mapping[str, float] = MappingProxyType({})
) -> tuple[TimePart, ...]:
    """What steps took by what they went into, from rows {step, seconds, parts: {name: seconds}}, and what is left;
    nothing where no row has parts. Most steps of a rollout have fewer parts than its first. `promise` are the seconds
    that were estimated."""
    whole, spent = 0.0, dict[str, float]()
    for row in rows:
        whole += float(row.get("seconds") or 0.0)
        for name, seconds in (row.get("parts") or {}).items():
            spent[str(name)] = spent.get(str(name), 0.0) + float(seconds)
    if not spent or not whole:
        return ()
    rest = whole - sum(spent.values())
    named = [*spent.items(), *([("the rest", rest)] if rest > 0 else [])]
    expected = sum(promise.values())
    shares = {name: seconds / expected for name, seconds in promise.items()} if expected else {}
    return tuple(TimePart(name, seconds, seconds / whole, shares.get(name)) for name, seconds in named)


def validations(rows: Sequence[dict[str, Any]]) -> tuple[ValidationCurve, ...]:
    """The scores of each source, from rows {step, validation: [metric]}."""
    found: dict[str, list[Score]] = {}
    for row in rows:
        metrics = [Metric.load(m) for m in row.get("validation") or ()]
        for source in dict.fromkeys(m.source for m in metrics):
            of_source = tuple(m for m in metrics if m.source == source)
            found.setdefault(source, []).append(Score(int(row["step"]), of_source))
    return tuple(ValidationCurve(source, tuple(scores)) for source, scores in found.items())


def overfitting(training: NamedCurve, held_out: Sequence[ValidationCurve]) -> list[str]:
    """Sources whose validation has become worse since its best while training went on to improve."""
    found = []
    for validation in held_out:
        best, last = validation.best, validation.scores[-1]
        if len(validation.scores) < 2 or not best.main.better:
            continue
        name, was, now = best.main.name, best.main.value, last.main.value
        worse = (now - was if best.main.better == "lower" else was - now) > RISE * abs(was)
        trained, trains = training.curve.around(best.step), training.curve.around(last.step)
        if worse and trains < trained:
            went = "rose" if now > was else "fell"
            found.append(
                f"overfitting to {validation.source}: since step {best.step:,} its validation {name} {went} from "
                f"{was:.3f} to {now:.3f}, while the training {training.name} fell from {trained:.3f} "
                f"to {trains:.3f}. More text, fewer steps or dropout would help."
            )
    return found
