"""`explain SPEC --part PATH` on the terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from llmspec.explain.part import PartReport
from llmspec.render.report_shared import facts, heading, number, spark, table


def show(report: PartReport, console: Console) -> None:
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
        heading(console, "settings", "a value in bold differs from its default")
        console.print(settings(report))
    if report.tensors:
        heading(console, "weights")
        made = table("tensor", "", "shape", "each", "starts as", right=("each",))
        for name, copies, row in report.tensors:
            made.add_row(f"  {name}", f"× {copies}" if copies > 1 else "", " × ".join(map(str, row.shape)),
                         number(row.parameters), row.init)
        console.print(made)
    if report.curve:
        heading(console, "learning rate", f"{max(report.curve):.3g} at its highest, {report.curve[-1]:.3g} at the end")
        width = max(10, min(100, console.width - 4))
        console.print(Padding(Text(spark(report.curve, width, floor=0.0), style="cyan"), (0, 0, 0, 2)))
    if report.costs:
        heading(console, "cost")
        console.print(facts(report.costs))


def settings(report: PartReport) -> Any:
    """Keys, values, defaults and what they mean."""
    made = table("key", "value", "default", "means")
    for setting in report.settings:
        value = written(setting.value)
        changed = setting.default is not None and value not in (setting.default, written(setting.default))
        default = "" if setting.default is None else written(setting.default)
        made.add_row(f"  {setting.key}", Text(value, style="bold" if changed else ""), Text(default, style="dim"),
                     Text(setting.means, style="dim"))
    return made


def written(value: Any) -> str:
    """A value as YAML has it, short."""
    if isinstance(value, str):
        return value if value not in ("True", "False") else value.lower()
    return json.dumps(value, ensure_ascii=False).strip('"')
