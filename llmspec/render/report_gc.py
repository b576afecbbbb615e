"""What `llmspec gc` has found, and freed."""

from __future__ import annotations

from collections.abc import Sequence

from llmspec.core.units import size
from llmspec.render.terminal import Text, out
from llmspec.runs.garbage import Garbage


def show(found: Sequence[Garbage], gone: Sequence[Garbage], notices: Sequence[str], yes: bool) -> None:
    """A line for each, and the sum."""
    console = out()
    for garbage in found:
        console.print(Text(f"  {size(garbage.bytes):>10}  {garbage.path}: {garbage.why}"), soft_wrap=True)
    for notice in notices:
        console.print(Text(f"  note: {notice}", style="yellow"), soft_wrap=True)
    total = size(sum(g.bytes for g in (gone if yes else found)))
    if not found:
        console.print("nothing can go")
    else:
        console.print(f"{total} freed" if yes else f"{total} can go; --yes frees it")
