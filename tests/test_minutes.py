"""Budgets in minutes: as many steps as this machine is expected to take, kept in the run, cut where it is slower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_going_back import SHORT, Halting

from llmspec.compiler import compile_spec
from llmspec.core.units import Budget
from llmspec.forecast import estimates
from llmspec.runs import checkpoint
from llmspec.spec import load_spec
from llmspec.training import minutes
from llmspec.training.callbacks import Recorder
from llmspec.training.phase_stats import PhaseStats
from llmspec.training.run import run
from llmspec.training.stop import Interrupted

SPEC = SHORT.replace("budget: 6 steps", "budget: 0.01 minutes")


@given(st.floats(1e-3, 1e6), st.none() | st.integers(1, 10**9))
def test_it_is_read_as_it_is_written(amount: float, steps: int | None) -> None:
    budget = Budget(amount, "minutes", None, steps)
    found = Budget.parse(str(budget)) if "e" not in str(budget) else budget
    assert found == budget


@pytest.mark.parametrize("text", ["0 minutes", "10 minutes of wiki", "10 minutes (0 steps)", "10 m", "-1 minutes"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


class Rated:
    """A machine on which every step of these phases takes a known time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds = seconds
        monkeypatch.setattr(estimates, "expected", self.expected)
        monkeypatch.setattr(estimates, "remember", lambda *given: None)

    def expected(self, plan: Any) -> dict[str, estimates.Forecast]:
        return {
            p.name: estimates.Forecast(
                phase=p.name,
                steps=self.seconds * (p.steps or 0),
                validation=0.05,
                samples=0.0,
                tokens_per_second=1.0,
                origin=estimates.GUESS,
            )
            for p in plan.phases
        }


def trained(folder: Path, watcher: Recorder | None = None, *sets: str) -> Recorder:
    folder.mkdir(exist_ok=True)
    watcher = watcher or Recorder()
    run(compile_spec(load_spec(tiny.write(folder, SPEC), sets).spec), folder / "run", watcher=watcher)
    return watcher


def taken(folder: Path) -> int:
    rows = (folder / "run/first/metrics.jsonl").read_text().splitlines()
    return sum("lr" in json.loads(row) for row in rows)


def test_the_steps_are_those_of_the_rates_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rated = Rated(monkeypatch, 0.05)
    monkeypatch.setattr(minutes.Clock, "late", lambda *given: "")
    heard = trained(tmp_path)
    assert taken(tmp_path) == 11, "0.6 seconds, of which validation takes 0.05, at 0.05 a step"
    assert any("are 11 steps by what is known of this machine" in n for n in heard.notices)
    assert "0.01 minutes (11 steps)" in (tmp_path / "run/resolved.yaml").read_text()
    rated.seconds = 0.2
    assert trained(tmp_path).taken == ["first", "second"], "the run keeps its number"
    other = trained(tmp_path, None, "phases.first.micro_batch_size=3")
    assert other.phases == ["first", "second"] and taken(tmp_path) == 2, "steps of another shape are counted anew"


def test_a_resumed_one_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rated = Rated(monkeypatch, 0.05)
    monkeypatch.setattr(minutes.Clock, "late", lambda *given: "")
    straight, stopped = tmp_path / "a", tmp_path / "b"
    trained(straight)
    with pytest.raises(Interrupted):
        trained(stopped, Halting("first", 4))
    rated.seconds = 0.5
    trained(stopped)
    found = [checkpoint.newest(f / "run/first")[0] for f in (straight, stopped)]
    weights = [(saved.folder / checkpoint.WEIGHTS).read_bytes() for saved in found if saved]
    assert len(weights) == 2 and weights[0] == weights[1]


def test_a_slow_machine_ends_in_time_at_the_end_of_its_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promised a hundred times faster than it is: the steps are cut, and the last rate is that of a last step."""
    Rated(monkeypatch, 0.0005)

    def slow(self: PhaseStats, on: str, spent: float, times: int = 1, captured: bool = False) -> None:
        counted(self, on, 0.05 if on == "steps" else 0.0, times)

    counted = PhaseStats.spent
    monkeypatch.setattr(PhaseStats, "spent", slow)
    heard = trained(tmp_path)
    assert 10 <= taken(tmp_path) <= 12, "0.6 seconds at 0.05 a step"
    assert any("they become 12, and the schedule ends there" in n for n in heard.notices)
    rows = [json.loads(r) for r in (tmp_path / "run/first/metrics.jsonl").read_text().splitlines()]
    rates = [r["lr"] for r in rows if "lr" in r]
    assert rates[-1] == pytest.approx(0.1 * max(rates)), "the cosine has come to its end"
    about = json.loads((tmp_path / "run/first/phase.json").read_text())
    assert "minutes are used up" in about["ended"]["why"] and about["done"]
    assert trained(tmp_path).taken == ["first", "second"]
