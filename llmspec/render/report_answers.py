"""The same prompts after every phase, on the terminal: a column a phase where there is room, else a row a phase."""

from __future__ import annotations

from collections.abc import Sequence

from rich.padding import Padding
from rich.table import Table

from llmspec.core.visible import visible
from llmspec.decoding.answer import CUT
from llmspec.explain.side_by_side import PhaseAnswer, SideBySide
from llmspec.render.report_shared import heading
from llmspec.render.terminal import Screen, Text

COLUMN = 34
"""Columns of the terminal that a phase needs to have a column of the table."""
LINES = 8
"""Lines of an answer that are shown."""


def show(console: Screen, found: Sequence[SideBySide]) -> None:
    """Every prompt with what each phase's model says to it."""
    heading(console, "the same prompts after every phase", "… stands where an answer was cut, since it was too long")
    phases = list(dict.fromkeys(a.phase for one in found for a in one.answers))
    wide = (console.width - 2) // max(1, len(phases)) >= COLUMN
    for i, one in enumerate(found):
        if i:
            console.print()
        console.print(Padding(Text(visible(one.prompt).strip(), style="bold"), (0, 0, 0, 2)))
        console.print(Padding(columns(console, one, phases) if wide else rows(console, one, phases), (0, 0, 0, 2)))


def columns(console: Screen, one: SideBySide, phases: Sequence[str]) -> Table:
    """The phases beside one another."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, show_edge=False, expand=True)
    for phase in phases:
        made.add_column(visible(phase), overflow="fold", ratio=1)
    width = (console.width - 2) // len(phases) - 2
    said = {answer.phase: answer for answer in one.answers}
    made.add_row(*(cut(console, said[phase], width) if phase in said else "" for phase in phases))
    return made


def rows(console: Screen, one: SideBySide, phases: Sequence[str]) -> Table:
    """The phases under one another."""
    longest = min(max(len(visible(phase)) for phase in phases), console.width // 3)
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", overflow="fold", max_width=longest)
    made.add_column(overflow="fold")
    for answer in one.answers:
        made.add_row(visible(answer.phase), cut(console, answer, max(10, console.width - longest - 6)))
    return made


def cut(console: Screen, answer: PhaseAnswer, width: int) -> Text:
    """An answer in a few lines."""
    said = visible(answer.text).strip()
    text = Text(said or "(nothing)", style="" if said else "dim")
    text.expand_tabs(4)
    lines = text.wrap(console, width)
    shown = Text()
    for i, line in enumerate(lines[:LINES]):
        line.rstrip()
        shown.append("\n" * bool(i)).append_text(line)
    if len(lines) > LINES or (said and answer.finish_reason in CUT):
        shown.append(" …", style="dim")
    return shown
