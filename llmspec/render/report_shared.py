"""What the reports share on the terminal: headings, facts, numbers, small curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from rich.table import Table

from llmspec.core.units import flops as flops
from llmspec.render.terminal import Screen, Text

BARS = "▁▂▃▄▅▆▇█"
NARROW = 60
"""Columns below which a chart says less than a line of bars."""


def heading(console: Screen, title: str, explanation: str = "") -> None:
    """A section's title on a line of its own, and a line for who sees such a section for the first time."""
    console.print()
    line = Text.assemble((f"{title} ", "bold cyan"))
    line.append("─" * max(0, console.width - len(line)), style="dim cyan")
    console.print(line, no_wrap=True, overflow="crop")
    if explanation:
        console.print(Text(explanation, style="dim"))


def facts(rows: Iterable[tuple[str, Any]], indent: int = 2) -> Table:
    """Names and values under each other; empty values are left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value not in ("", None):
            grid.add_row(" " * indent + name, str(value) if isinstance(value, str | int | float) else value)
    return grid


def table(*columns: str, right: Sequence[str] = (), indent: int = 2) -> Table:
    """A table without lines, `right` columns aligned to the right."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        made.add_column(
            (" " * indent if i == 0 else "") + name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=name in right,
        )
    return made


def bullets(console: Screen, texts: Iterable[str]) -> None:
    """Sentences, each with a dot before it."""
    for text in texts:
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column()
        grid.add_column(overflow="fold")
        grid.add_row("  •", Text(text))
        console.print(grid)


# -- numbers -------------------------------------------------------------------------------------------------------
def number(value: float | None, unknown: str = "?") -> str:
    """1_234_567 -> '1,234,567'."""
    return unknown if value is None else f"{value:,.0f}"


def percent(share: float) -> str:
    """0.853 -> '85.3%', with as many digits as tell something."""
    return f"{share:.0%}" if share >= 0.9995 else f"{share:.1%}" if share >= 0.0005 or share == 0 else "<0.1%"


# -- small curves --------------------------------------------------------------------------------------------------
def spark(values: Sequence[float], width: int, floor: float | None = None, ceiling: float | None = None) -> str:
    """A curve of up to `width` characters, averaged where there are more values, between `floor` and `ceiling` or
    else its lowest and its highest value."""
    if not values:
        return ""
    width = max(1, min(width, len(values)))
    edges = [i * len(values) // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means) if floor is None else floor, max(means) if ceiling is None else ceiling
    span = (high - low) or 1.0
    top = len(BARS) - 1
    return "".join(BARS[max(0, min(top, round((m - low) / span * top)))] for m in means)


def bar(share: float, width: int) -> str:
    """A bar of eighths, `width` characters where the share is 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
