"""What is promised of time and memory before a run, and what is written down of it afterwards."""

from __future__ import annotations

import gc
import json
import mmap
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.data.prepare import prepare
from llmspec.explain.examples import examples, tokenization
from llmspec.explain.plan_vs_actual import facts_of, remarks_on
from llmspec.explain.run import explain_run
from llmspec.forecast import estimates
from llmspec.forecast.calibration import Rates
from llmspec.forecast.energy import Meter
from llmspec.forecast.estimates import EARLIER, GUESS, Measured, forecasts, pieces_beside, shape_key, step_pieces
from llmspec.forecast.measurements import Kept
from llmspec.forecast.process_memory import peak_bytes, resident_bytes, restart_peak
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec
from llmspec.training.phase_stats import PhaseStats

RATES = Rates(
    widths=(64, 256),
    products=(5e10, 1e11),
    attention=5e10,
    loss=1.0,
    norm=1e-9,
    gate=1e-9,
    update=1e-9,
    drop=1e-9,
    call=1e-5,
)


def quickstart(*overrides: str) -> Plan:
    return compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", ["device=CPU", *overrides]).spec)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LLMSPEC_CACHE", str(folder))
    return folder


# -- time ------------------------------------------------------------------------------------------------------------


@given(st.floats(1, 1e5))
def test_rates_between_two_widths_lie_between_theirs(width: float) -> None:
    assert 5e10 <= RATES.product(width) <= 1e11 and RATES.product(64) == 5e10 and RATES.product(256) == 1e11


@given(st.integers(1, 8), st.integers(1, 4))
def test_more_work_takes_longer_and_nothing_takes_no_time(batch: int, accumulation: int) -> None:
    plan = quickstart("model.dropout=0.1")
    for planned in plan.phases:
        phase = planned.phase.model_copy(
            update={"micro_batch_size": batch, "gradient_accumulation_steps": accumulation}
        )
        pieces = step_pieces(plan.model, phase, RATES)
        larger = step_pieces(plan.model, phase.model_copy(update={"micro_batch_size": batch + 1}), RATES)
        assert all(seconds > 0 for seconds in pieces)
        assert pieces.total < larger.total <= pieces.total * (batch + 1) / batch * (1 + 1e-9)


def test_a_first_guess_gives_way_to_an_earlier_run_of_such_steps() -> None:
    plan = quickstart()
    guessed = forecasts(plan, RATES, {})
    assert {f.origin for f in guessed.values()} == {GUESS} and set(guessed) == {"pretrain", "chat"}
    chat = plan.phase("chat")
    ran = Measured(step=0.25, validation=None, sample=2.0)
    found = forecasts(plan, RATES, {shape_key(plan.model, chat.phase): ran})
    assert found["pretrain"] == guessed["pretrain"] and found["chat"].origin == EARLIER
    assert found["chat"].steps == 0.25 * (chat.steps or 0)
    assert found["chat"].samples == 2.0 * 2 * 2  # two prompts at half and at the end
    assert "an earlier run" in found["chat"].sentence and "first estimate" in guessed["chat"].sentence
    assert forecasts(plan, None, {}) == {}


def test_a_teacher_takes_its_passes_forward() -> None:
    """With the model's own shape: a third of the products of a step, its head and its attention among them."""
    plan = compile_spec(load_spec(tiny.ROOT / "specs/distil.yaml", ["device=CPU"]).spec)
    student = plan.phase("student")
    own, beside = step_pieces(student.model, student.phase, RATES), pieces_beside(student, RATES, 1)
    assert beside == pytest.approx((own.products + own.attention + own.head + own.other) / 3, rel=0.02)
    assert pieces_beside(student, RATES, 3) == pytest.approx(3 * beside, rel=1e-9)
    assert pieces_beside(plan.phase("teacher"), RATES, 1) == 0
    taught, alone = forecasts(plan, RATES, {})["student"], forecasts(plan, RATES, {})["teacher"]
    steps = [student.steps or 0, plan.phase("teacher").steps or 0]
    assert taught.steps / steps[0] == pytest.approx(alone.steps / steps[1] + beside, rel=1e-9)
    keys = {shape_key(student.model, student.phase, others) for others in ({}, student.others)}
    assert len(keys) == 2


def test_what_shapes_a_step_and_nothing_else_names_it() -> None:
    plan, chat = quickstart(), quickstart().phase("chat").phase
    longer = quickstart("phases.chat.budget=1M tokens").phase("chat").phase
    wider = quickstart("phases.chat.micro_batch_size=4").phase("chat").phase
    assert shape_key(plan.model, chat) == shape_key(plan.model, longer) != shape_key(plan.model, wider)


@pytest.mark.parametrize("damage", ["", "[1]", "{", '{"key": 3}', "\x00"])
def test_a_damaged_file_counts_as_empty(cache: Path, damage: str) -> None:
    plan = quickstart()
    (cache / "rates.json").write_text(damage)
    (cache / "steps.json").write_text(damage)
    assert estimates.expected(plan) == {}
    kept = Kept("rates.json")
    kept.keep("a", 1)
    assert kept.read()["a"] == 1 and not list(cache.glob(".rates*"))


# -- memory, energy, tally -------------------------------------------------------------------------------------------


def test_the_high_water_mark_starts_anew() -> None:
    if not restart_peak():
        pytest.skip("the system does not tell")
    before = resident_bytes() or 0
    with mmap.mmap(-1, 64 << 20) as held:  # an allocator may keep what is freed
        for _ in range(64):
            held.write(bytes(1 << 20))
        assert peak_bytes() - before > 60 << 20
    assert restart_peak() and peak_bytes() - before < 30 << 20


def test_joules_are_counted_over_the_turn_of_a_counter(tmp_path: Path) -> None:
    zone, part = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0:0"
    for folder in (zone, part):
        folder.mkdir()
        (folder / "energy_uj").write_text("900000000\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
    meter = Meter(tmp_path)
    (zone / "energy_uj").write_text("950000000\n")
    assert meter.joules() == 50
    (zone / "energy_uj").write_text("50000000\n")
    assert meter.joules() == 150
    assert Meter(tmp_path / "nothing").joules() is None


def test_a_tally_goes_on_and_leaves_out_the_step_that_captures() -> None:
    tally = PhaseStats()
    for seconds in (9.0, 1.0, 2.0):
        tally.spent("steps", seconds)
    tally.spent("samples", 5.0, 2)
    tally.holds(100)
    tally.holds(50)
    found = tally.measured()
    assert found == Measured(step=1.5, validation=None, sample=2.5)
    again = PhaseStats(tally.dump())
    assert again.measured() is None
    again.spent("steps", 8.0)
    dumped = again.dump()
    assert dumped["seconds"]["steps"] == 20 and dumped["times"] == {"steps": 4, "samples": 2}
    assert dumped["held_bytes"] == 100


# -- a run -----------------------------------------------------------------------------------------------------------


def abandoned() -> None:
    """Leaves tensors that only the garbage collector will find: a later run's memory is counted without them."""
    import numpy as np
    from tinygrad import Tensor

    from llmspec.model.device import open_device

    open_device("CPU")
    held: list[Any] = [Tensor(np.zeros(1 << 20, np.float32), device="CPU").contiguous().realize()]
    held.append(held)


@pytest.mark.nightly
def test_a_run_keeps_its_promises_beside_its_facts(tmp_path: Path) -> None:
    from llmspec.training.callbacks import Callback
    from llmspec.training.run import run

    text = tiny.TINY.replace("context: 16", "context: 32").replace("d_model: 16", "d_model: 48")
    text = text.replace("24 steps", "4 steps").replace("12 steps", "3 steps").replace("seed: 7", "seed: 91")
    path = tiny.write(tmp_path, text)
    plan, told = compile_spec(load_spec(path).spec, base=str(tmp_path)), list[Any]()

    class Told(Callback):
        def expected(self, forecasts: Any, peak_flops: float | None) -> None:
            told.append((dict(forecasts), peak_flops))

        def stepped(self, step: Any) -> None:
            gc.collect()

    gc.disable()  # so that it is only done where it is asked for
    try:
        abandoned()
        reports = [explain_run(run(plan, tmp_path / name, watcher=Told())) for name in ("one", "two")]
    finally:
        gc.enable()
    assert {f.origin for f in told[1][0].values()} == {EARLIER} and told[1][1]
    for report in reports:
        assert report.peak_flops
        for phase in report.phases:
            facts = {f.what: f for f in phase.facts}
            assert all(facts[k].off == 0 for k in ("steps", "tokens", "matrix products"))
            assert abs(facts["memory at its peak"].off or 0) < 0.15
            assert facts["time in steps"].actual == pytest.approx(phase.seconds) and phase.seconds > 0
    promised = [next(f.promised for f in p.facts if f.what == "time in steps") for p in reports[1].phases]
    assert promised == [f.steps for f in told[1][0].values()]


def test_a_broken_promise_is_a_remark() -> None:
    planned = quickstart().phase("chat")
    about = {
        "done": True,
        "promise": {"steps": 10.0, "origin": GUESS},
        "facts": {"held_bytes": 2 * (planned.memory.peak if planned.memory else 0)},
    }
    found = remarks_on(facts_of(planned, about, planned.steps or 0, 30.0, (planned.tokens or 0) - 1, 1e12))
    assert [r.split(":")[0] for r in found] == ["tokens", "time in steps", "memory at its peak"]
    assert not remarks_on(facts_of(planned, {}, 3, 30.0, None, None))


# -- what is learned ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [False, True])
def test_excerpts_mark_what_an_assistant_says(tmp_path: Path, cache: Path, mask: bool) -> None:
    records = [{"q": f"question {i}?", "a": f"answer {i}."} for i in range(60)]
    talk_source = {"kind": "inline", "records": records, "dialogue": {"user": "{q}", "assistant": "{a}"}}
    chat = {"kind": "sft", "mixture": {"talk": "60%", "text": "40%"}, "budget": "4 steps", "micro_batch_size": 2}
    spec = {
        "name": "excerpts",
        "device": "CPU",
        "model": {"context": 64, "d_model": 16, "layers": 1},
        "tokenizer": {"kind": "byte"},
        "data": {"sources": {"talk": talk_source, "text": {"kind": "inline", "documents": ["plain words " * 80]}}},
        "phases": {"chat": {**chat, "document_mask": mask}},
    }
    prepared = prepare(compile_spec(Spec.model_validate_json(json.dumps(spec))))
    talk, text = examples(prepared)
    assert (talk.source, text.source, talk.phase) == ("talk", "text", "chat")
    learned, rest = ["".join(t for t, taught in talk.pieces if taught is side) for side in (True, False)]
    assert learned.startswith("answer ") and learned.endswith(".<|end_of_turn|>") and learned.count("<|") == 1
    assert "question" in rest and "answer" not in rest and rest.startswith("<|end|><|user|>")
    assert [taught for _, taught in text.pieces] == [False, True] and text.cut
    found = tokenization(prepared.codec)
    assert "".join(found.tokens) == found.sentence and not found.merges


def test_answers_in_validation_take_time_until_they_were_measured() -> None:
    """As much again for twice the answers; of a run that was measured nothing is added."""
    plan = compile_spec(load_spec("translate").spec)
    sources = tuple(s.model_copy(update={"validation_tokens": 1000}) for s in plan.sources)
    times = []
    for answered in (0, 100, 200):
        (planned,) = plan.phases
        phase = planned.phase.model_copy(update={"generate_metrics": answered})
        made = planned.model_copy(update={"phase": phase, "steps": 100, "tokens": 10_000})
        whole = plan.model_copy(update={"sources": sources, "phases": (made,)})
        times.append(forecasts(whole, RATES, {})["learn"].validation)
        ran = Measured(step=0.25, validation=1e-3, sample=None)
        assert forecasts(whole, RATES, {shape_key(made.model, phase): ran})["learn"].validation == 1e-3 * 1000 * 5
    assert 0 < times[1] - times[0] == pytest.approx(times[2] - times[1])
