"""Proofs on the terminal: what was shown, and how."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmspec.compiler.proofs import Proof

SIGNS = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "yellow")}
"""Shown, wrong, and not shown yet."""


def show(proofs: Iterable[Proof], console: Console | None = None) -> None:
    """A line for each proof, and its evidence below it."""
    console = console or Console(highlight=False, emoji=False, markup=False)
    for proof in proofs:
        sign, style = SIGNS[proof.holds]
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column()
        grid.add_column(overflow="fold")
        grid.add_row(Text(f"  {sign}", style=style), Text(proof.name))
        grid.add_row("", Text(proof.evidence, style="dim"))
        console.print(grid)
