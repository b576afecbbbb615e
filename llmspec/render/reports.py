"""Prints a report of llmspec.explain: in colour on a terminal, as plain text elsewhere, never wider than it is."""

from __future__ import annotations

from importlib import import_module

from llmspec.explain.report import Report
from llmspec.render.terminal import Screen, out

PRINTERS = {
    "spec": "report_spec",
    "file": "report_file",
    "run": "report_run",
    "part": "report_part",
    "difference": "report_compare",
    "prompt": "report_prompt",
    "tokens": "report_tokens",
    "wins": "report_wins",
    "dry run": "report_dry_run",
}
"""What a report is about -> the module that prints it, imported when one is."""


def show(report: Report, console: Screen | None = None) -> None:
    """Prints any report; its `about` names the module that knows how."""
    printer = import_module(f"llmspec.render.{PRINTERS[report.about]}")
    printer.show(report, console or out())
