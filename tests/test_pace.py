"""The speed that is told of a text is that of steps which nothing is compiled for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspec.render import pace


@given(
    rows=st.integers(1, 4),
    steps=st.integers(0, 30),
    prompt=st.floats(0.01, 9),
    compiled=st.floats(0, 9),
    each=st.floats(0.001, 0.1),
)
def test_compiling_counts_in_no_speed(rows: int, steps: int, prompt: float, compiled: float, each: float) -> None:
    now = [0.0]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(pace.time, "perf_counter", lambda: now[0])
        clock = pace.Pace(rows)
        now[0] += prompt
        for step in range(steps + 1):
            now[0] += 0 if step == 0 else compiled if step == 1 else each
            for _ in range(rows):
                clock.token()
    tokens, seconds = clock.counted
    assert clock.tokens == rows * (steps + 1) and tokens == rows * max(0, steps - 1)
    assert seconds == pytest.approx(each * max(0, steps - 1))
    told = clock.told(" (so)")
    assert told.startswith(f"{clock.tokens} tokens, ") and "first after" in told
    assert (" tokens/s (so), " in told) == (steps > 1)
    if steps > 1:
        assert float(told.split(", ")[1].split()[0]) == pytest.approx(rows / each, abs=0.51)
