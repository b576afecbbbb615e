"""Proofs on the terminal: what was shown, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table

from llmspec.compiler.plan import Plan
from llmspec.compiler.proofs import Proof
from llmspec.core.units import size
from llmspec.render.terminal import Screen, Text, out

SIGNS = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "yellow")}
"""Shown, wrong, and not shown yet."""


def checked(
    plan: Plan,
    proofs: Iterable[Proof],
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
    show(proofs, console)
    for name, peak in peaks.items():
        console.print(f"{name}: {size(peak)} at its peak, as scheduled", soft_wrap=True)
    for sentence in times:
        console.print(sentence, soft_wrap=True)


def show(proofs: Iterable[Proof], console: Screen | None = None) -> None:
    """A line for each proof, and its evidence below it."""
    console = console or out()
    for proof in proofs:
        sign, style = SIGNS[proof.holds]
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column()
        grid.add_column(overflow="fold")
        grid.add_row(Text(f"  {sign}", style=style), Text(proof.name))
        grid.add_row("", Text(proof.evidence, style="dim"))
        console.print(grid)
