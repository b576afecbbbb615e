"""Curves of alignment phases in `explain RUN`: any metric by its name, what its time went into, why nothing was
learned, and a line a phase."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from test_explain import as_json, assert_fits, begun, printed, trained

from llmspec.compiler import compile_spec
from llmspec.core.metrics import Metric
from llmspec.explain.curves import Curve, NamedCurve, Score, ValidationCurve, parts_of
from llmspec.explain.remarks import LOOKED_AT, moved, of_metrics
from llmspec.explain.run import explain_run
from llmspec.render import report_run
from llmspec.render.terminal import Screen
from llmspec.spec import load_spec
from llmspec.training.rollout_signs import ALIKE, Signs, divergence, told
from llmspec.training.rollouts import Episodes

NAMES = (
    *("loss", "reward", "reward_std", "reward/short", "kl", "reference_kl", "entropy", "clip_fraction", "clip_low"),
    *("answer_tokens", "ended", "groups_alike", "answers_alike", "rewards/accuracies", "logps/rejected"),
)
PARTS = {"drawing": 0.25, "scoring": 0.05, "log-probabilities": 0.1, "update": 0.5}


def aligned(folder: Path) -> Any:
    """A run whose last phase noted what phases of alignment note."""
    run = begun(folder)
    trained(run, "pretrain", 40)
    trained(run, "chat", 8)
    place = run.phase("chat")
    rows = place.metrics.read()
    place.metrics.path.unlink()
    place.timing.path.unlink()
    for row in rows:
        place.metrics.append(row | {name: (i + 1) * row["step"] / 1000 for i, name in enumerate(NAMES)})
        place.timing.append({"step": row["step"], "seconds": 1.0, "parts": PARTS})
    held = [Metric(name, 0.5 + i, "", better="higher").of("facts").dump() for i, name in enumerate(NAMES)]
    place.metrics.append({"step": 8, "validation": held})
    place.note(units=dict.fromkeys(NAMES, ""))
    return run


def test_every_metric_has_its_curve_by_its_name(tmp_path: Path) -> None:
    report = explain_run(aligned(tmp_path))
    shown = printed(report, 80)
    shown = shown[shown.rindex("chat ─") :]
    assert [m.name for m in report.phases[1].metrics] == list(NAMES)
    for i, name in enumerate(NAMES):
        first, last = (report_run.figure((i + 1) * step / 1000) for step in (1, 8))
        (line,) = [x for x in shown.splitlines() if x.startswith(f"  {name} ") and "→" in x]
        assert f"{first} → {last}" in line and "▁" in line
    assert "of which" in shown and "drawing 25.0%" in shown and "update 50.0%" in shown and "the rest 10.0%" in shown
    assert_fits(report)
    as_json(report)


def test_a_line_a_phase_says_what_each_did(tmp_path: Path) -> None:
    report = explain_run(aligned(tmp_path))
    text = printed(report, 100)
    lines = text[text.index("phases ─") :].splitlines()[3:5]
    assert [line.split()[0] for line in lines] == ["pretrain", "chat"]
    assert "loss 2.750 → 2.000 nats/token" in lines[0], "validation, where there is one"
    assert lines[1].split()[1:3] == ["sft", "pretrain"]
    assert (report.phases[0].start, report.phases[1].start) == ("", "pretrain")
    waiting = printed(explain_run(begun(tmp_path / "other")), 100)
    assert waiting[waiting.index("phases ─") :].count("waiting") == 2


# -- why nothing was learned -------------------------------------------------------------------------------------------
BAD = {"groups_alike": 0.9, "answers_alike": 1.0, "clip_fraction": 0.7, "ended": 0.1}
BAD |= {"commonest_answer": 0.9, "at_best_reward": 0.95}
GOOD = {"groups_alike": 0.1, "answers_alike": 0.0, "clip_fraction": 0.1, "ended": 0.9}


@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_curve_that_says_that_nothing_was_learned_is_remarked(name: str) -> None:
    def said(value: float) -> list[str]:
        return list(of_metrics([NamedCurve("loss", "", Curve((1,), (0.0,))), NamedCurve(name, "", curve(value))]))

    def curve(value: float) -> Curve:
        return Curve((1, 2, 3), (value, value, value))

    assert len(said(BAD.get(name, 0.0))) == 1 and not said(GOOD.get(name, 0.3))
    assert not list(of_metrics([NamedCurve(name, "", Curve((), ()))])), "nothing was measured"


@pytest.mark.parametrize("name", LOOKED_AT)
def test_what_begins_late_is_remarked_as_well(name: str) -> None:
    """A model that collapses in the last fifth of a phase has good means."""
    good, bad = GOOD.get(name, 0.3), BAD.get(name, 0.0)
    curve = Curve(tuple(range(1, 101)), (good,) * 80 + (bad,) * 20)
    (said,) = of_metrics([NamedCurve(name, "", curve)])
    assert said.startswith("in the last 20 steps, ")
    assert not list(of_metrics([NamedCurve(name, "", Curve(curve.steps, (good,) * 100))]))


def test_a_model_that_runs_away_from_its_reference_is_remarked() -> None:
    for values in ((50.0,) * 9, (0.1,) * 40 + (12.0,) * 10):
        (said,) = of_metrics([NamedCurve("reference_kl", "nats/token", Curve(tuple(range(len(values))), values))])
        assert "nats a token from its reference" in said and "kl_ceiling" in said


def test_a_first_rollout_says_nothing_of_the_distance_from_the_reference() -> None:
    """It is drawn by the reference itself; behind it, a decay of weights is no learning."""
    planned = planned_of("grpo")
    first = planned.phase.steps_per_rollout
    for behind, said in (((), 0), ((0.0,) * first, 1), ((3e-8,) * first, 1), ((1e-3,) * first, 0)):
        values = (0.0,) * first + behind
        curve = NamedCurve("reference_kl", "nats/token", Curve(tuple(range(len(values))), values))
        assert len(list(of_metrics([moved(curve, planned)]))) == said


def planned_of(kind: str) -> Any:
    """The plan of a smallest phase of a kind."""
    text, own = phase_kinds.spec_of(kind)
    with tempfile.TemporaryDirectory() as folder:
        return compile_spec(load_spec(tiny.write(Path(folder), text), own).spec).phases[-1]


def episodes_of(said: Sequence[int], rewards: np.ndarray) -> Episodes:
    """Answers of one token to as many prompts."""
    tokens, lengths = np.array(said, np.int32)[:, None], np.ones(len(said), np.int32)
    return Episodes((None,) * len(said), tokens, lengths, lengths > 0, {}, rewards, {})  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=8, max_size=40), st.sampled_from([0.5, 9.0]))
def test_shares_of_answers_are_those_that_are_counted(drawn: list[tuple[int, float]], bound: float) -> None:
    """What is learned from is counted, not what was given: scores that a bound makes alike teach nothing."""
    rewards = np.array([reward for _, reward in drawn], np.float32)
    scores = np.clip(rewards, -bound, bound)
    found = told(episodes_of([said for said, _ in drawn], rewards), scores)
    counts = [sum(other == said for other, _ in drawn) for said, _ in drawn]
    assert found["commonest_answer"] == max(counts) / len(drawn)
    best = float(scores.max()) - 0.01 * float(np.ptp(scores))
    assert found["at_best_reward"] == (pytest.approx((scores >= best).mean()) if np.ptp(scores) else 0)
    assert found["score_std"] == pytest.approx(scores.std()) and found["reward_std"] == pytest.approx(rewards.std())


@pytest.mark.parametrize(
    ("rewards", "scores", "said"),
    [
        ([5.0, 9.0], [1.0, 1.0], "has the reward 1, once scaled and bounded: "),
        ([2.0, 2.0], [2.0, 2.0], "has the reward 2: "),
        ([0.0, 0.0], [0.0, -1.0], ""),  # one was cut, which costs something
    ],
)
def test_scores_that_are_all_alike_are_told_once(rewards: list[float], scores: list[float], said: str) -> None:
    heard = list[str]()
    signs = Signs("grpo", heard.append)
    for rollout in range(2 * ALIKE):
        signs.spread(np.array(rewards), np.array(scores), rollout)
    assert len(heard) == bool(said) and all(said in one for one in heard)


def test_a_divergence_by_the_answers_of_an_earlier_policy_is_that_of_the_policy_now() -> None:
    dice = np.random.default_rng(2)
    old, now, reference = (np.log(dice.dirichlet(np.ones(6))) for _ in range(3))
    drawn = dice.choice(6, (40_000, 5), p=np.exp(old))
    here = np.arange(5) < dice.integers(1, 6, (len(drawn), 1))
    found = divergence(now[drawn], reference[drawn], here, old[drawn])
    assert found == pytest.approx(float((np.exp(now) * (now - reference)).sum()), rel=0.03)
    own = dice.choice(6, drawn.shape, p=np.exp(now))
    assert divergence(now[own], reference[own], here) == pytest.approx(found, rel=0.03)


def test_remarks_stand_in_the_report(tmp_path: Path) -> None:
    report = explain_run(aligned(tmp_path))
    assert any(r.startswith("chat: only 5% of the answers ended") for r in report.remarks)


# -- pieces ------------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.floats(0.01, 9), st.dictionaries(st.sampled_from("abc"), st.floats(0, 3)))))
def test_shares_of_time_are_those_of_all_steps(rows: list[tuple[float, dict[str, float]]]) -> None:
    steps = [
        {"step": i, "seconds": s + sum(p.values()), **({"parts": p} if p else {})} for i, (s, p) in enumerate(rows)
    ]
    found = parts_of(steps)
    if not any(p for _, p in rows):
        assert found == ()
        return
    assert sum(part.share for part in found) == pytest.approx(1)
    assert sum(part.seconds for part in found) == pytest.approx(sum(s["seconds"] for s in steps))
    for part in found[:-1]:
        assert part.seconds == pytest.approx(sum(p.get(part.name, 0.0) for _, p in rows))


@given(st.integers(1, 14), st.integers(1, 2), st.integers(40, 140))
def test_no_score_is_cut_at_any_width(metrics: int, sources: int, width: int) -> None:
    def score(source: int) -> Score:
        found = (Metric(NAMES[i], 1.0 + i + source / 10, "", source=f"s{source}") for i in range(metrics))
        return Score(8, tuple(found))

    found = tuple(ValidationCurve(f"s{k}", (score(k),)) for k in range(sources))
    file = io.StringIO()
    console = Screen(file=file, force_terminal=False, width=width, color_system=None, legacy_windows=False)
    console.print(report_run.scores(found, width))
    said = file.getvalue()
    assert all(cell_len(line.rstrip()) <= width for line in said.splitlines())
    for v in found:
        assert all(m.shown in said and m.label in said for m in v.scores[0].metrics)


@given(st.floats(-1e9, 1e9))
def test_a_figure_is_near_its_number_and_short(value: float) -> None:
    shown = report_run.figure(value)
    assert len(shown) <= 14 and float(shown.replace(",", "")) == pytest.approx(value, rel=0.051)
