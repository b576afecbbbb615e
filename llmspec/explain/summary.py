"""A run in a few numbers, for machines: what `run --json` prints at its end."""

from __future__ import annotations

from typing import Any

from llmspec.explain.report import plain
from llmspec.explain.run import PhaseRun, explain_run
from llmspec.runs.run import RunFolder


def run_summary(folder: RunFolder, reused: list[str]) -> dict[str, Any]:
    """Where the run lies, what each phase came to, what was checked; `reused` names phases that were trained before.

    Metrics have names and units, times are in seconds. Raises RunError where the run cannot be read.
    """
    report = explain_run(folder)
    return plain(
        {
            "ok": True,
            "run": report.path,
            "name": report.name,
            "state": report.state,
            "device": report.device,
            "parameters": report.parameters,
            "seconds": report.seconds,
            "checks": report.checks,
            "phases": [{**_phase(phase), "reused": phase.name in reused} for phase in report.phases],
            "remarks": report.remarks,
        }
    )


def _phase(phase: PhaseRun) -> dict[str, Any]:
    return {
        "name": phase.name,
        "kind": phase.kind,
        "state": phase.state,
        "step": phase.step,
        "steps": phase.steps,
        "ended": phase.ended,
        "best": phase.best,
        "metrics": {m.name: {"value": m.curve.last, "unit": m.unit} for m in phase.metrics},
        "seconds": phase.seconds,
        "tokens_per_second": phase.tokens_per_second,
        "validation": {v.source: v.scores[-1] for v in phase.validation},
        "ledger": {row.source: row.actual for row in phase.ledger},
        "as_planned": not any(row.differences for row in phase.ledger),
    }
