"""Prints a report of llmspec.explain: in colour on a terminal, as plain text elsewhere, never wider than it is."""

from __future__ import annotations

from llmspec.explain.report import Report
from llmspec.render.terminal import Screen, out


def show(report: Report, console: Screen | None = None) -> None:
    """Prints any report; its `about` names the module that knows how."""
    console = console or out()
    if report.about == "spec":
        from llmspec.render import report_spec as printer
    elif report.about == "run":
        from llmspec.render import report_run as printer  # type: ignore[no-redef]
    elif report.about == "part":
        from llmspec.render import report_part as printer  # type: ignore[no-redef]
    elif report.about == "difference":
        from llmspec.render import report_compare as printer  # type: ignore[no-redef]
    else:
        from llmspec.render import report_prompt as printer  # type: ignore[no-redef]
    printer.show(report, console)  # type: ignore[arg-type]
