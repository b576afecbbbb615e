"""Checks on the terminal: what holds, and how that was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table

from llmspec.compiler.checks import Check
from llmspec.compiler.plan import Plan
from llmspec.core.units import size
from llmspec.render.terminal import Screen, Text, out

SIGNS = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "yellow")}
"""Shown, wrong, and not shown yet."""


def checked(
    plan: Plan,
    checks: Iterable[Check],
    peaks: Mapping[str, int],
    times: Iterable[str],
    data: bool,
    notices: Iterable[str] = (),
) -> None:
    """What `check` says of a spec that is right; `peaks` are bytes by phase, `notices` what to know of the data."""
    console = out()
    phases = f"{len(plan.phases)} phase{'s' * (len(plan.phases) > 1)}" if plan.phases else "no phases"
    data = data or not plan.phases
    console.print(
        f"ok: {plan.name}, {plan.model.parameters:,} parameters, {phases}"
        + ("" if data else "; the data were not read (--data reads them)"),
        soft_wrap=True,
    )
    for notice in notices:
        console.print(f"note: {notice}")
    show(checks, console)
    for name, peak in peaks.items():
        console.print(f"{name}: {size(peak)} at its peak, as scheduled", soft_wrap=True)
    for sentence in times:
        console.print(sentence, soft_wrap=True)


def show(checks: Iterable[Check], console: Screen | None = None) -> None:
    """A line for each check, and its evidence below it."""
    console = console or out()
    for check in checks:
        sign, style = SIGNS[check.holds]
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column()
        grid.add_column(overflow="fold")
        grid.add_row(Text(f"  {sign}", style=style), Text(check.name))
        grid.add_row("", Text(check.evidence, style="dim"))
        console.print(grid)
