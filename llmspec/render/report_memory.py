"""The table of what phases hold."""

from __future__ import annotations

from rich.padding import Padding

from llmspec.core.units import size
from llmspec.explain.memory import WORDS, MemoryReport
from llmspec.render.report_shared import heading, table
from llmspec.render.terminal import Screen, Text

SIDE_BY_SIDE = 3
"""Phases in one table: more would not fit 80 columns."""


def show_memory(console: Screen, reports: tuple[MemoryReport, ...], limit: int | None, whose: str) -> None:
    """One column for each phase, the largest items of the table first to be seen."""
    has = f"; {size(limit)} is {whose}" if limit is not None else ""
    heading(console, "memory", f"what one device holds at a phase's peak{has}")
    groups = [reports[i : i + SIDE_BY_SIDE] for i in range(0, len(reports), SIDE_BY_SIDE)]
    for index, group in enumerate(groups):
        if index:
            console.print()
        names = [report.phase for report in group]
        made = table("item", *names, right=names)
        for item in WORDS.values():
            cells = [dict(report.items).get(item) for report in group]
            if any(cells):
                made.add_row(f"  {item}", *(size(cell) if cell else "" for cell in cells))
        made.add_row(Text("  peak", style="bold"), *(Text(size(r.peak), style="bold") for r in group))
        if any(r.exact is not None for r in group):
            made.add_row("  as scheduled", *(size(r.exact) if r.exact is not None else "" for r in group))
        console.print(made)
    for report in reports:
        console.print(Padding(Text(f"{report.phase} peaks {report.moment}", style="dim"), (0, 0, 0, 2)))
