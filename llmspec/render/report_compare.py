"""`explain A B` on the terminal."""

from __future__ import annotations

from rich.padding import Padding

from llmspec.explain.compare import DifferenceReport, PhaseDifference
from llmspec.render.report_part import written
from llmspec.render.report_shared import heading, spark, table
from llmspec.render.terminal import Screen, Text

STYLES = {"reused": "green", "retrained": "yellow"}


def show(report: DifferenceReport, console: Screen) -> None:
    """What differs, then what follows."""
    console.print(Text.assemble((report.first, "bold"), " → ", (report.second, "bold")))
    if report.note:
        console.print(Text(report.note, style="yellow"))
    heading(console, "what differs", "settings; everything else is the same in both")
    if report.differences:
        made = table("key", "first", "second")
        for difference in report.differences:
            made.add_row(
                f"  {difference.path}",
                *(
                    Text("—" if v is None else written(v), style=style)
                    for v, style in ((difference.first, "dim"), (difference.second, ""))
                ),
            )
        console.print(made)
    else:
        console.print("  nothing")
    heading(console, "what follows")
    made = table("", "first", "second", "ratio", right=("first", "second", "ratio"))
    for found in report.consequences:
        ratio = "" if found.ratio is None else "same" if found.ratio == 1 else f"{found.ratio:.3g}×"
        made.add_row(
            f"  {found.name}",
            found.first_text,
            found.second_text,
            Text(ratio, style="dim" if ratio == "same" else "bold"),
        )
    console.print(made)
    if report.phases:
        heading(
            console, "phases", "what happens to each when the second is run after the first, in the same run directory"
        )
    for phase in report.phases:
        show_phase(console, phase)


def show_phase(console: Screen, phase: PhaseDifference) -> None:
    """The fate of one phase, and both curves to the same scale where they differ."""
    line = Text.assemble(f"  {phase.name}  ", (phase.fate, STYLES.get(phase.fate, "dim")))
    console.print(line.append(f": {phase.why}" if phase.why else "", style="dim"))
    if phase.first_rates == phase.second_rates:
        return
    top = max((*phase.first_rates, *phase.second_rates), default=0.0)
    width = max(10, min(60, console.width - 34))
    for name, rates in (("first", phase.first_rates), ("second", phase.second_rates)):
        if rates:
            curve = Text(spark(rates, width, floor=0.0, ceiling=top), style="cyan", no_wrap=True)
            console.print(Padding(Text.assemble(f"{name:6}  ", curve, f"  peak {max(rates):.3g}"), (0, 0, 0, 4)))
