"""`bench` on the terminal: the machine, then each work with its peer; and the progress of the measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.table import Table

from llmspec.bench.report import BenchReport, Row, WorkReport
from llmspec.core.units import count, duration, size
from llmspec.forecast.report import Machine
from llmspec.render.report_shared import bullets, facts, flops, heading, number, percent, table
from llmspec.render.terminal import Screen, Text, err, out, spinner

LESS_IS_BETTER = ("s", "bytes")


def show(report: BenchReport, console: Screen | None = None) -> None:
    """The whole report."""
    console = console or out()
    rounds = f", median of {report.rounds} rounds" if report.rounds > 1 and report.works else ""
    console.print(
        Text.assemble((report.name, "bold"), f": {count(report.parameters)} parameters on {report.device}", rounds)
    )
    if report.machine is not None:
        heading(console, "machine", "the best this machine reaches, in float32")
        console.print(facts(machine_facts(report.machine)))
        console.print(products(report.machine))
    if report.works:
        heading(console, "work", "ratio: llmspec to the peer; less is better for times and memory, more for speeds")
        console.print(works(report.works))
        bullets(console, notes(report.works))


def machine_facts(machine: Machine) -> Iterator[tuple[str, str]]:
    """What the machine is and does."""
    yield "processor", f"{machine.processor}, {machine.cores} core{'s' * (machine.cores > 1)}"
    yield "peak", f"{rate(machine.peak_flops)} in matrix products by {machine.products_by}"
    copied = "copied in one thread" if machine.device.startswith("CPU") else "read and written"
    yield (
        "memory",
        (
            f"{machine.copy_bytes / 1e9:.1f} GB/s {copied}, "
            f"{machine.product_bytes / 1e9:.1f} GB/s of weights read in a matrix-vector product"
        ),
    )
    if machine.load is not None and machine.load > 0.5:
        yield "note", f"other processes were running ({machine.load:.1f} cores in the last minute): figures are low"


def products(machine: Machine) -> Table:
    """Each shape's rate and its share of the peak."""
    made = table("product (rows × inner × columns)", "rate", "of peak", right=("rate", "of peak"))
    for p in machine.products:
        made.add_row(
            f"  {p.rows} × {p.inner} × {p.columns}",
            rate(p.flops_per_second),
            percent(p.flops_per_second / machine.peak_flops),
        )
    return made


def works(reports: tuple[WorkReport, ...]) -> Table:
    """A line a figure: on our side, on the peer's, and their ratio with the rounds' smallest and largest."""
    made = table("work", "llmspec", "peer", "ratio (spread)", right=("llmspec", "peer"))
    for report in reports:
        several = sum(r.work == report.work for r in reports) > 1
        beside = f" ({(report.peer or '').split()[0]})" if several else ""
        for row in report.rows:
            made.add_row(
                f"  {row.work}, {row.figure}{beside}",
                value(row.ours, row),
                "–" if row.peer is None else value(row.peer, row),
                ratio(row),
            )
    return made


def value(amount: float, row: Row) -> str:
    """A figure with its unit."""
    if row.unit == "s":
        return f"{amount * 1e3:.3g} ms" if amount < 1 else f"{amount:.3g} s"
    if row.unit == "bytes":
        return size(amount)
    if row.unit == "share":
        return percent(amount)
    return f"{number(amount) if amount >= 100 else f'{amount:.3g}'} tokens/s"


def ratio(row: Row) -> Text:
    """`0.84× (0.81–0.86)`, green where llmspec is at least level."""
    if row.ratio is None:
        return Text("")
    good = row.ratio <= 1 if row.unit in LESS_IS_BETTER else row.ratio >= 1
    spread = f" ({row.low:.2f}–{row.high:.2f})" if len(row.rounds) > 1 else ""
    return Text.assemble((f"{row.ratio:.2f}×", "green" if good else "yellow"), (spread, "dim"))


def notes(reports: tuple[WorkReport, ...]) -> Iterator[str]:
    """What was measured, on which sides."""
    for r in reports:
        cost = f", {flops(r.flops)}" if r.flops else ""
        yield f"{r.work}: {r.what}{cost}; {r.side}" + (f" and {r.peer}" if r.peer else "")


def rate(flops_per_second: float) -> str:
    """FLOPs a second for reading: 1.5e11 -> '150 GFLOP/s'."""
    return flops(flops_per_second).removesuffix("s") + "/s"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Says on stderr what is being measured and how long it will take: in place on a terminal, else a line each."""
    console, began = err(), time.monotonic()

    def line(what: str, done: int, total: int) -> str:
        left = f", {duration((time.monotonic() - began) / done * (total - done))} left" if done else ""
        return f"{done}/{total} {what}{left}"

    if not console.is_terminal:
        yield lambda what, done, total: console.print(line(what, done, total), soft_wrap=True)
        return
    with console.status("measuring", spinner=spinner(console)) as status:
        yield lambda what, done, total: status.update(Text(line(what, done, total)))
