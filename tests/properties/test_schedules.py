"""Learning rates over a phase: formulas, bounds, where they start and where they end."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import settings as settings_of

from llmspec.core.units import Share
from llmspec.parts import optimizers, schedules
from llmspec.parts.schedules.base import Span

FORMULAS: dict[str, Any] = {
    "constant": lambda part, p: 1.0,
    "linear": lambda part, p: np.interp(p, [0, 1], [1, part.min_lr_ratio]),
    "cosine": lambda part, p: part.min_lr_ratio + (1 - part.min_lr_ratio) * np.cos(np.pi * p / 2) ** 2,
    "wsd": lambda part, p: np.interp(p, [0, 1 - part.decay.percent / 100, 1], [1, 1, part.min_lr_ratio]),
}
"""The factor after the warm-up, by how much of the rest is over."""


@st.composite
def phases(draw: st.DrawFn, kind: str) -> tuple[Any, int, int]:
    """A schedule, the steps of a phase, and those of its warm-up, which end before the phase does."""
    steps = draw(st.integers(1, 300))
    warm = draw(st.integers(0, min(steps - 1, 40)))
    options = draw(settings_of(schedules.TABLE[kind], skip=("warmup",)))
    return schedules.TABLE[kind].model_validate({**options, "warmup": f"{warm} steps" if warm else "0%"}), steps, warm


@pytest.mark.parametrize("kind", schedules.TABLE)
@given(st.data())
def test_the_formula(kind: str, data: st.DataObject) -> None:
    part, steps, warm = data.draw(phases(kind))
    for step in range(steps):
        after = FORMULAS[kind](part, (step - warm) / max(1, steps - 1 - warm))
        assert part.factor(step, steps) == pytest.approx((step + 1) / warm if step < warm else after, abs=1e-12)


@pytest.mark.parametrize("kind", schedules.TABLE)
@given(st.data())
def test_up_to_the_peak_and_never_up_again(kind: str, data: st.DataObject) -> None:
    part, steps, warm = data.draw(phases(kind))
    factors = [part.factor(step, steps) for step in range(steps)]
    assert all(0 <= f <= 1 for f in factors) and factors[0] > 0
    assert all(a < b for a, b in itertools.pairwise(factors[:warm]))
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(factors[warm:]))
    assert factors[warm] == 1.0 and (warm == 0 or factors[warm - 1] == 1.0)
    if warm < steps - 1:  # where a single step follows the warm-up, it has the peak
        assert factors[-1] == pytest.approx(getattr(part, "min_lr_ratio", 1.0), abs=1e-12)
    assert part.check(steps) == []


@pytest.mark.parametrize("kind", schedules.TABLE)
@given(st.integers(1, 300), st.integers(0, 60), st.booleans())
def test_a_warm_up_is_a_share_or_a_number(kind: str, steps: int, warm: int, share: bool) -> None:
    part = schedules.TABLE[kind].model_validate({"kind": kind, "warmup": f"{warm}%" if share else f"{warm + 1} steps"})
    planned = round(warm / 100 * steps) if share else warm + 1
    assert part.warmup.steps(steps) == planned
    assert bool(part.check(steps)) == (planned >= steps)


@pytest.mark.parametrize("decay", [1.0, 50.0, 100.0])
def test_the_ends_of_wsd(decay: float) -> None:
    part = schedules.TABLE["wsd"](decay=Share(decay), min_lr_ratio=0.25)
    assert part.factor(0, 1001) == 1.0 and part.factor(1000, 1001) == pytest.approx(0.25)
    assert part.factor(round(1000 - 10 * decay), 1001) == 1.0
    assert part.factor(round(1000 - 5 * decay), 1001) == pytest.approx(0.625)


@pytest.mark.parametrize("kind", optimizers.TABLE)
@given(st.floats(0, 1), st.integers(1, 10**6))
def test_the_graph_reads_the_scheduled_rate_first(kind: str, factor: float, step: int) -> None:
    part = optimizers.TABLE[kind]()
    scalars = part.scalars(factor, step)
    assert scalars[0] == part.lr * factor and np.isfinite(scalars).all()
    assert np.isfinite(np.array(scalars, np.float32)).all()


@given(st.integers(1, 100), st.integers(1, 5000))
def test_a_share_is_due_no_more_often_than_it_says(share: int, total: int) -> None:
    interval = Span.parse(f"{share}%").interval(total)
    assert 1 <= interval <= total
    assert math.ceil(total / interval) <= math.ceil(100 / share)
    assert share * total % 100 or interval == share * total // 100
