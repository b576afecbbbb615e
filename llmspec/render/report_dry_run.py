"""`run --dry-run` on the terminal."""

from __future__ import annotations

from llmspec.core.units import duration
from llmspec.explain.dry_run import DryRunReport, PhaseDeed
from llmspec.render.report_shared import number, table
from llmspec.render.terminal import Screen, Text

STYLES = {"taken": "green", "goes on": "yellow", "trained": "yellow", "left out": "dim", "missing": "red"}


def show(report: DryRunReport, console: Screen) -> None:
    """A line a phase, and what all of it would take."""
    console.print(Text.assemble((report.name, "bold"), f" into {report.path}; nothing is trained or written now"))
    made = table("phase", "", "steps", "time", "why", right=("steps", "time"), indent=0)
    for phase in report.phases:
        made.add_row(
            f"  {phase.name}",
            Text(phase.deed, style=STYLES[phase.deed]),
            "" if not phase.steps else number(phase.steps),
            time_of(phase),
            Text(phase.why, style="dim"),
        )
    console.print(made)
    if report.seconds:
        console.print(f"  about {duration(report.seconds)} in all")


def time_of(phase: PhaseDeed) -> str:
    """What its steps are expected to take."""
    return "" if not phase.steps else "?" if phase.seconds is None else duration(phase.seconds)
