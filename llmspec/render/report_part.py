"""`explain SPEC --part PATH` on the terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.padding import Padding
from rich.table import Table

from llmspec.explain.part import PartReport
from llmspec.render import report_lesson
from llmspec.render.report_shared import facts, heading, number, spark, table
from llmspec.render.terminal import Screen, Text

WIDE = 110
"""Columns from which on what a key means stands beside its value."""


def show(report: PartReport, console: Screen) -> None:
    """From what it is to what it costs."""
    console.print(Text.assemble((report.path, "bold"), f": {report.kind}" if report.kind else ""))
    for sentence in report.what:
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))
    if report.formula:
        heading(console, "formula")
        console.print(Padding(Text(report.formula, style="cyan"), (0, 0, 0, 2)))
    if report.papers:
        heading(console, "papers")
        for paper in report.papers:
            console.print(Padding(Text(paper), (0, 0, 0, 2)))
    if report.settings:
        heading(console, "settings")
        console.print(settings(report, console.width))
    if report.tensors:
        heading(console, "weights")
        made = table("tensor", "", "shape", "each", "starts as", right=("each",))
        for name, copies, row in report.tensors:
            made.add_row(
                f"  {name}",
                f"× {copies}" if copies > 1 else "",
                " × ".join(map(str, row.shape)),
                number(row.parameters),
                row.init,
            )
        console.print(made)
    if report.curve:
        heading(console, "learning rate", f"{max(report.curve):.3g} at its highest, {report.curve[-1]:.3g} at the end")
        width = max(10, min(100, console.width - 4))
        console.print(Padding(Text(spark(report.curve, width, floor=0.0), style="cyan"), (0, 0, 0, 2)))
    if report.costs:
        heading(console, "cost")
        console.print(facts(report.costs))
    if report.lesson is not None:
        report_lesson.show(console, report.lesson)
    elif report.no_lesson:
        console.print()
        console.print(Text(f"note: {report.no_lesson}", style="dim"))


def settings(report: PartReport, width: int) -> Table:
    """Keys, values, defaults and what they mean; the meaning below the value where lines are short."""
    below = width < WIDE
    made = table("key", "value") if below else table("key", "value", "default", "means")
    for setting in report.settings:
        value, default = written(setting.value), "" if setting.default is None else written(setting.default)
        changed = bool(default) and value != default
        shown, means = Text(value, style="bold" if changed else ""), Text(" ".join(setting.means.split()), style="dim")
        if below:
            instead = f"  (default: {default})" if changed else ""
            made.add_row(f"  {setting.key}", Text.assemble(shown, instead, "\n", means))
        else:
            made.add_row(f"  {setting.key}", shown, Text(default, style="dim"), means)
    return made


def written(value: Any) -> str:
    """A value as a spec has it, in one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{key} {written(inner)}" for key, inner in value.items())
    if isinstance(value, list) and value:
        return ", ".join(map(written, value))
    return json.dumps(value, ensure_ascii=False)
