"""Kernels made for a GPU that is not here, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmspec.core.units import duration
from llmspec.model.cross_compile import Kernel, Made
from llmspec.render.report_shared import facts, heading, number, table
from llmspec.render.terminal import Screen, Text, err, out, spinner

LARGEST = 5
"""Kernels that are shown, by the time they take to make."""


@contextmanager
def progress(target: str) -> Iterator[Callable[[str], None]]:
    """A line on standard error that follows the work; a line each where that is not a terminal."""
    console = err()
    if not console.is_terminal:
        yield lambda text: console.print(f"{target}: {text}")
        return
    with console.status(Text(f"{target}: building the graphs"), spinner=spinner(console)) as status:
        yield lambda text: status.update(Text(f"{target}: {text}"))


def show(made: Made, console: Screen | None = None) -> None:
    """What was made, whether tensor cores work in it, and what was large."""
    console = console or out()
    heading(console, f"kernels for {made.target}", "compiled without such a GPU present; none of them was run")
    launches = ", ".join(f"{step.name} {step.launches}" for step in made.steps)
    console.print(
        facts(
            [
                ("kernels", f"{number(len(made.kernels))}, {done(made)}"),
                ("launches", launches),
                ("tensor cores", tensor_cores(made)),
                ("time", duration(made.seconds)),
            ]
        )
    )
    rows = table("slowest to compile", "lines", "seconds", "of", right=("lines", "seconds"))
    for kernel in sorted(made.kernels, key=seconds, reverse=True)[:LARGEST]:
        rows.add_row("  " + kernel.name, number(kernel.lines), f"{seconds(kernel):.1f}", kernel.step)
    console.print(rows)


def done(made: Made) -> str:
    """Compiled, or why not."""
    return "all of them compiled" if made.compiled else f"rendered, not compiled: {made.why_not}"


def seconds(kernel: Kernel) -> float:
    """What a kernel took to make."""
    return kernel.render_seconds + (kernel.compile_seconds or 0.0)


def tensor_cores(made: Made) -> str:
    """How many kernels use them, or what would make them."""
    using = sum(kernel.tensor_cores for kernel in made.kernels)
    if using:
        return f"in {using} kernels, for matrix products in {made.precision}"
    way = "sizes that are multiples of 16" if made.precision != "float32" else "`precision: bfloat16`"
    return f"in none: {way} would let matrix products use them"
