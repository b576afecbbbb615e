"""What `explain` says of specs, runs and answers, and that it fits the terminal."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from llmspec.compiler import Plan, compile_spec
from llmspec.compiler.plan import Measured, SharePlan, SourcePlan
from llmspec.core.metrics import Metric
from llmspec.core.problems import RunError
from llmspec.explain.curves import Curve, NamedCurve, Score, ValidationCurve, overfitting
from llmspec.explain.report import Report
from llmspec.explain.run import counts_of, explain_run
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.render.reports import show
from llmspec.render.terminal import Screen
from llmspec.runs.files import write_json, write_text
from llmspec.runs.run import RunFolder
from llmspec.spec.schema import Spec

WIDTHS = (40, 80, 140)


def tiny(**changes: Any) -> dict[str, Any]:
    """A small spec as YAML would give it, two phases on two inline sources."""
    facts = {
        "kind": "inline",
        "records": ({"q": "What is a comet?", "a": "a small body of ice."},) * 4,
        "license": "CC BY-SA 4.0",
        "attribution": "Somebody",
        "validation": "tail 25%",
        "text": "{q} {a}",
        "dialogue": {"user": "{q}", "assistant": "{a}"},
    }
    return {
        "name": "tiny",
        "seed": 3,
        "device": "CPU",
        "model": {"context": 32, "d_model": 16, "layers": 3, "attention": {"heads": 4, "kv_heads": 2}},
        "data": {"sources": {"plain": {"kind": "inline", "documents": ("to be or not to be " * 9,)}, "facts": facts}},
        "phases": {
            "pretrain": {
                "kind": "pretrain",
                "mixture": {"plain": "75%", "facts": "25%"},
                "budget": "40 steps",
                "micro_batch_size": 2,
                "schedule": {"kind": "cosine", "warmup": "10%"},
                "prompts": ("to",),
            },
            "chat": {
                "kind": "sft",
                "from": "pretrain",
                "mixture": {"facts": "100%"},
                "budget": "8 steps",
                "micro_batch_size": 2,
            },
        },
        "decoding": {"temperature": 0.8, "top_p": 0.95, "frequency_penalty": 0.2, "max_tokens": 6, "stop": ("\n",)},
        **changes,
    }


def planned(**changes: Any) -> Plan:
    return compile_spec(Spec.model_validate(tiny(**changes)))


def measured() -> Plan:
    """The tiny plan with counts, as reading the data would give them."""
    plan = planned()

    def share(source: str, part: float, blocks: int, dropped: int = 0) -> SharePlan:
        return SharePlan(
            source=source,
            share=part,
            blocks=blocks,
            tokens_read=blocks * 32,
            tokens_supervised=blocks * 30,
            documents_dropped=dropped,
            tokens_repeated=0,
            epochs=1.5,
        )

    sources = tuple(
        SourcePlan(
            name=s.name,
            source=s.source,
            documents=4,
            train_tokens=900,
            validation_tokens=100,
            train_characters=2700,
            validation_characters=300,
            contaminated=1,
        )
        for s in plan.sources
    )
    phases = {"pretrain": (share("plain", 0.75, 60), share("facts", 0.25, 20)), "chat": (share("facts", 1.0, 16, 2),)}
    found = Measured(fingerprint="f", sources=sources, phases=phases, fingerprints={name: name for name in phases})
    return compile_spec(Spec.model_validate(tiny()), found)


def printed(report: Report, width: int, terminal: bool = False) -> str:
    """What `show` prints on a terminal of a width, or into a file."""
    out = io.StringIO()
    show(report, Screen(file=out, width=width, force_terminal=terminal, color_system=None, legacy_windows=False))
    return out.getvalue()


def assert_fits(report: Report) -> None:
    for width, terminal in itertools.product(WIDTHS, (False, True)):
        wide = [line for line in printed(report, width, terminal).splitlines() if cell_len(line) > width]
        assert not wide, f"wider than {width}: {wide[:3]}"


def as_json(report: Report) -> dict[str, Any]:
    """The report's data, once written as strict JSON and read back."""
    data = report.as_data()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    return data


# -- runs ----------------------------------------------------------------------------------------------------------
def begun(folder: Path, plan: Plan | None = None) -> RunFolder:
    """A run directory with nothing but its plan."""
    write_json(folder / "plan.json", (plan or measured()).dump())
    return RunFolder.open(folder)


def trained(run: RunFolder, name: str, steps: int, rising: bool = False, done: bool = True) -> None:
    """Writes what a phase leaves behind."""
    plan = run.plan().phase(name)
    place = run.phase(name)
    place.folder.mkdir(parents=True)
    for step in range(1, steps + 1):
        place.metrics.append({"step": step, "loss": 5 * math.exp(-step / 20), "lr": 1e-3, "norm": 2.0, "tokens": 60})
        place.timing.append({"step": step, "seconds": 3.0 if step == 1 else 0.1})
        if step % 10 == 0:
            nats = 100 * (1 + step / 40 if rising else 3 - step / 40)
            metrics = CrossEntropy().metrics({"loss": nats, "loss_weights": 100}, 300)
            place.metrics.append({"step": step, "validation": [m.of("facts").dump() for m in metrics]})
            place.samples.append(
                {
                    "step": step,
                    "prompt": "to\n",
                    "text": "be \x1b[31mred\a or\tnot " * 40,
                    "finish_reason": "max_tokens",
                }
            )
    ledger = [
        {
            "source": s.source,
            "blocks": s.blocks,
            "tokens_read": s.tokens_read,
            "tokens_supervised": s.tokens_supervised,
            "tokens_repeated": 0,
        }
        for s in plan.shares
    ]
    place.note(key=plan.key, done=done, **({"ledger": ledger} if done else {}))


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = begun(tmp_path)
    report = explain_run(run)
    assert report.state == "pretrain has not begun" and report.seconds == 0 and report.machine == ""
    assert [p.state for p in report.phases] == ["waiting", "waiting"]
    as_json(report)
    assert_fits(report)
    write_text(tmp_path / "lock.json", "{")
    with pytest.raises(RunError, match=r"lock\.json is damaged"):
        explain_run(run)


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 7, done=False)
    with run.phase("pretrain").metrics.path.open("a") as f:
        f.write('{"step": 8, "lo')
    report = explain_run(run)
    assert report.state == "in pretrain, after step 7 of 40" and not report.phases[0].validation
    assert "after step 7 of 40" in printed(report, 80)
    as_json(report)
    assert_fits(report)


def test_a_phase_of_one_step_and_an_empty_one(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 1, done=False)
    trained(run, "chat", 0, done=False)
    assert_fits(explain_run(run))


def test_a_whole_run(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40)
    trained(run, "chat", 8)
    write_json(tmp_path / "lock.json", {"system": "Linux", "machine": "x86_64", "packages": {"tinygrad": "0.14.0"}})
    report = explain_run(run)
    assert report.state == "done" and report.machine == "Linux x86_64"
    assert report.seconds == pytest.approx(3 + 39 * 0.1 + 3 + 7 * 0.1)
    pretrain = report.phases[0]
    assert pretrain.tokens_per_second == pytest.approx(64 / 0.1) and pretrain.clipped == 1.0
    last = pretrain.validation[0].scores[-1]
    assert last.value("loss", "nats/token") == pytest.approx(2.0)
    assert last.value("loss", "nats/character") == pytest.approx(2 / 3)
    assert last.value("perplexity") == pytest.approx(math.e**2) and last.step == 40
    assert not any(row.differences for row in pretrain.ledger) and "the counts match the plan" in printed(report, 80)
    data = as_json(report)
    assert len(data["phases"][0]["metrics"][0]["curve"]["steps"]) == 40 and len(data["phases"][0]["samples"]) == 4
    assert {s["source"]: s["attribution"] for s in data["sources"]} == {"plain": "", "facts": "Somebody"}
    assert_fits(report)


def test_a_chart_on_a_terminal_and_a_line_elsewhere(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40)
    report = explain_run(run)
    braille = {chr(c) for c in range(0x2801, 0x2900)}
    assert braille & set(printed(report, 80, terminal=True)) and not braille & set(printed(report, 80))
    assert not braille & set(printed(report, 50, terminal=True)), "too narrow for a chart"
    assert "\x1b" not in printed(report, 80) + printed(report, 80, terminal=True), "text never reaches the terminal raw"


def test_overfitting_is_remarked(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40, rising=True)
    assert any("overfitting" in r and "step 10" in r for r in explain_run(run).remarks)
    other = begun(tmp_path / "other")
    trained(other, "pretrain", 40)
    assert not any("overfitting" in r for r in explain_run(other).remarks)


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize(("was", "now"), [(a, b) for a in (-2.0, -1.0, 0.0, 1.0) for b in (-2.0, -1.0, 0.0, 1.0)])
def test_only_what_became_worse_is_overfitting(better: str, was: float, now: float) -> None:
    """Whatever sign a metric has: a reward, or R2, may lie below 0."""
    scores = tuple(Score(s, (Metric("m", v, better=better),)) for s, v in ((20, was), (100, now)))
    training = NamedCurve("loss", "", Curve((20, 100), (2.0, 1.0)))
    worse = now > was if better == "lower" else now < was
    assert bool(overfitting(training, [ValidationCurve("source", scores)])) == worse


def test_a_ledger_that_is_not_as_planned(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40)
    place = run.phase("pretrain")
    rows = place.about["ledger"]
    rows[0]["tokens_read"] -= 5
    place.note(ledger=rows)
    report = explain_run(run)
    assert report.phases[0].ledger[0].differences == ("tokens_read",)
    assert any("plain: tokens read 1,915, planned 1,920" in r for r in report.remarks)
    assert "not as planned" in printed(report, 80)


def test_both_forms_of_a_saved_ledger() -> None:
    counts = {"plays": {"tokens_read": 3, "tokens_supervised": 2, "tokens_repeated": 0}}
    assert counts_of({"counts": counts, "order": "ab"}) == counts == counts_of([{"source": "plays", **counts["plays"]}])
    assert counts_of(None) == counts_of({}) == counts_of([]) == {}


def test_a_phase_of_another_plan_is_named(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 3)
    run.phase("pretrain").note(key="other")
    report = explain_run(run)
    assert report.phases[0].state == "of another plan" and "other settings" in printed(report, 80)
