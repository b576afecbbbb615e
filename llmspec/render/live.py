"""A run on the terminal: a plan summary, then a live line per phase; plain lines where it is not a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.metrics import Metric
from llmspec.core.units import count, duration
from llmspec.forecast.estimates import Forecast
from llmspec.render.headway import Headway
from llmspec.render.terminal import Screen, Text, err, out
from llmspec.training.callbacks import Callback, Step
from llmspec.training.stop import Interrupted

BARS = "▁▂▃▄▅▆▇█"
PLAIN_SECONDS = 5.0
"""Between two plain lines of progress."""


def sparkline(values: list[float], width: int) -> str:
    """A curve of `width` characters, averaged where there are more values."""
    if not values:
        return ""
    step = max(1.0, len(values) / width)
    starts = [int(i * step) for i in range(min(width, len(values)))]
    means = [sum(v := values[a : max(a + 1, int(a + step))]) / len(v) for a in starts]
    low, high = min(means), max(means)
    return "".join(BARS[int((m - low) / (high - low or 1.0) * (len(BARS) - 1))] for m in means)


class Pace:
    """Steps and tokens a second over the last steps, and the time left. The first step compiles and is left out."""

    def __init__(self) -> None:
        self.recent: deque[Step] = deque(maxlen=50)
        self.first = True

    def add(self, step: Step) -> None:
        if not self.first:
            self.recent.append(step)
        self.first = False

    def tokens_per_second(self) -> float:
        seconds = sum(s.seconds for s in self.recent)
        return sum(s.tokens for s in self.recent) / seconds if seconds else 0.0

    def speed(self, peak_flops: float | None) -> str:
        """`1.2k tokens/s, 41% of peak`, the share where the machine's fastest product is known (FLOPs a second)."""
        seconds = sum(s.seconds for s in self.recent)
        words = f"{count(self.tokens_per_second())} tokens/s"
        if not (peak_flops and seconds):
            return words
        return f"{words}, {sum(s.flops for s in self.recent) / seconds / peak_flops:.0%} of peak"

    def eta(self, step: Step) -> str:
        if not self.recent:
            return "–"
        mean = sum(s.seconds for s in self.recent) / len(self.recent)
        return duration(mean * (step.steps - step.step))


class Plain(Callback):
    """One line now and then: for logs and pipes."""

    def __init__(self, console: Screen) -> None:
        self.console, self.phase, self.pace, self.last, self.doing = console, "", Pace(), 0.0, ""
        self.score, self.taken = "", list[str]()
        self.forecasts: Mapping[str, Forecast] = {}
        self.peak: float | None = None
        self.headway = Headway()

    def show(self, what: RenderableType) -> None:
        """Prints; a string without breaking its lines."""
        self.console.print(what, soft_wrap=isinstance(what, str))

    def say(self, text: str) -> None:
        """A line; on a terminal it breaks between words, and goes on below its second word."""
        self.show(hanging(text, self.console.width) if self.console.is_terminal else text)

    def notice(self, text: str) -> None:
        self.say(f"note: {text}")

    def progress(self, what: str, done: float, total: float) -> None:
        now = time.monotonic()
        if what != self.doing or now - self.last > PLAIN_SECONDS:
            self.doing, self.last = what, now
            self.say(self.headway.line(what, done, total))

    def expected(self, forecasts: Mapping[str, Forecast], peak_flops: float | None) -> None:
        self.forecasts, self.peak = forecasts, peak_flops

    def planned(self, plan: Plan, folder: Path) -> None:
        self.show(summary(plan, folder, self.forecasts))
        self.say(origin(self.forecasts))

    def reused(self, phase: PhasePlan) -> None:
        self.taken.append(phase.name)
        self.say(f"{phase.name}: trained before, its weights are reused")

    def phase_starts(self, phase: PhasePlan, step: int) -> None:
        self.phase, self.pace, self.last, self.score = phase.name, Pace(), time.monotonic(), ""
        begins = f"resumes after step {step} of" if step else "starts,"
        self.say(f"{phase.name}: {begins} {phase.steps} steps")

    def stepped(self, step: Step) -> None:
        self.pace.add(step)
        now = time.monotonic()
        if step.step in (1, step.steps) or now - self.last > PLAIN_SECONDS:
            self.last = now
            numbers = "  ".join(f"{m.name} {m.value:.3f}" for m in step.metrics)
            self.say(
                f"{self.phase} {step.step}/{step.steps}  {numbers}  lr {step.lr:.2e}  "
                f"norm {step.norm:.2f}  {self.pace.speed(self.peak)}  "
                f"ETA {self.pace.eta(step)}{skipped(step)}"
            )

    def validated(self, step: int, metrics: list[Metric]) -> None:
        for source in dict.fromkeys(m.source for m in metrics):
            told = ", ".join(words(m) for m in metrics if m.source == source and m.better)
            self.say(f"{self.phase} {step}  validation {source}: {told}")

    def sampled(self, step: int, prompt: str, text: str) -> None:
        self.say(f"{self.phase} {step}  sample: {prompt!r} -> {text!r}")

    def saved(self, step: int, folder: Path) -> None:
        self.say(f"{self.phase} {step}  saved {folder}")

    def phase_ends(self, phase: PhasePlan, ledger: list[dict[str, Any]]) -> None:
        self.say(f"{phase.name}: done")


class Display(Plain):
    """A live panel: bar, loss with its curve, validation, speed, time left, and the latest sample."""

    def __init__(self, console: Screen) -> None:
        super().__init__(console)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            expand=True,
            console=console,
        )
        self.task = self.bar.add_task("preparing", total=1)
        self.losses: list[float] = []
        self.line, self.text = Text(""), Text("")
        self.live = Live(self, console=console, refresh_per_second=4, transient=True)

    def __rich__(self) -> Group:
        parts: list[Any] = [self.bar, self.line]
        if self.losses:
            parts.append(Text(sparkline(self.losses, max(10, self.console.width - 8)), style="cyan"))
        if self.text:
            parts.append(Panel(self.text, title="a sample", title_align="left", border_style="dim"))
        return Group(*parts)

    def progress(self, what: str, done: float, total: float) -> None:
        line = self.headway.line(what, done, total)
        self.bar.update(self.task, description=line, completed=done, total=total or None)

    def phase_starts(self, phase: PhasePlan, step: int) -> None:
        self.phase, self.pace, self.losses, self.score = phase.name, Pace(), [], ""
        self.bar.update(self.task, description=phase.name, completed=step, total=phase.steps)
        self.line = Text("compiling the first step …", style="dim")

    def stepped(self, step: Step) -> None:
        self.pace.add(step)
        self.losses.append(step.loss)
        self.bar.update(self.task, completed=step.step)
        self.line = Text.assemble(
            (f"{step.metrics[0].name} ", "dim"),
            (f"{step.loss:.3f}", "bold"),
            self.score,
            ("   lr ", "dim"),
            f"{step.lr:.1e}",
            ("   ", ""),
            self.pace.speed(self.peak),
            ("   ETA ", "dim"),
            self.pace.eta(step),
            skipped(step),
        )

    def validated(self, step: int, metrics: list[Metric]) -> None:
        super().validated(step, metrics)
        first = metrics[0]
        # Of what is given in several units, the last has least to do with the model: characters rather than tokens.
        shown = [m for m in metrics if (m.source, m.name) == (first.source, first.name)][-1]
        self.score = f"   validation {words(shown)}"

    def sampled(self, step: int, prompt: str, text: str) -> None:
        self.text = Text.assemble((prompt, "bold"), " " if prompt and not prompt.endswith("\n") else "", text[:400])

    def saved(self, step: int, folder: Path) -> None:
        pass

    def phase_ends(self, phase: PhasePlan, ledger: list[dict[str, Any]]) -> None:
        self.say(f"{phase.name}: done, loss {self.losses[-1]:.3f}" if self.losses else f"{phase.name}: done")


def skipped(step: Step) -> str:
    """How many steps were not applied so far; '' for none."""
    return f"   {step.skipped} skipped" if step.skipped else ""


def words(metric: Metric) -> str:
    """`3.9451 nats/token`, `perplexity 51.68`: a loss is known by its unit, everything else by its name."""
    if metric.name == "loss" and metric.unit:
        return f"{metric.shown} {metric.unit}"
    return f"{metric.name} {metric.shown}{' ' + metric.unit if metric.unit else ''}"


def origin(forecasts: Mapping[str, Forecast]) -> str:
    """Where the times come from, and how to get some where there are none."""
    if not forecasts:
        return "time: not estimated on this machine yet; `llmspec check SPEC --time` measures what it needs"
    found = {f.origin for f in forecasts.values()}
    return f"time: {' and '.join(sorted(found))}"


def _times(epochs: float) -> str:
    """How often a source is read: 0.31, 4.5, 1,024."""
    return f"{epochs:.2g}" if epochs < 99.5 else f"{epochs:,.0f}"


def summary(plan: Plan, folder: Path, forecasts: Mapping[str, Forecast]) -> Group:
    """What is about to happen, and a table of it: a line a phase."""
    layers = f"{plan.model.layers} layer{'s' * (plan.model.layers != 1)}"
    title = (
        f"{plan.name}: {count(plan.model.parameters)} parameters, {layers}, "
        f"vocabulary {plan.model.vocab:,}, context {plan.model.context}, on {plan.device} → {folder}"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("phase", "steps", "tokens", "mixture (tokens, epochs)", "TFLOPs", *(("time",) if forecasts else ())):
        table.add_column(column, justify="left" if column in ("phase", "mixture (tokens, epochs)") else "right")
    for phase in plan.phases:
        times = [f"≈ {duration(forecasts[phase.name].total)}" if phase.name in forecasts else "?"] if forecasts else []
        mixture = ", ".join(
            f"{s.source} {s.share:.0%}"
            + (f" ({count(s.tokens_read)}, {_times(s.epochs)}×)" if s.tokens_read and s.epochs else "")
            for s in phase.shares
        )
        table.add_row(
            phase.name,
            count(phase.steps or 0),
            count(phase.tokens or 0),
            mixture,
            f"{(phase.flops or 0) / 1e12:.1f}",
            *times,
        )
    return Group(Text(title, style="bold"), table)  # a table's own title would be as narrow as the table


def hanging(text: str, width: int) -> Padding | str:
    """Text that goes on below its second word where it takes more than a line of `width` columns."""
    first, _, rest = text.partition(" ")
    if len(text) <= width or not rest or len(first) > width // 3:
        return text
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(first, rest)
    return Padding(grid, 0)


@contextmanager
def watcher(again: str = "", then: Sequence[str] = (), aside: bool = False) -> Iterator[Plain]:
    """A watcher for this terminal; says how to go on (`again`) when a run was stopped, and what next (`then`) when
    it ended.

    `aside`: on standard error, since standard output is for machines. Raises OutputLost where nobody hears it.
    """
    console = err() if aside else out()
    began = time.monotonic()
    watch: Plain = Display(console) if console.is_terminal else Plain(console)
    try:
        if isinstance(watch, Display):
            with watch.live:
                yield watch
        else:
            yield watch
    except Interrupted as stop:
        stop.told = True
        with suppress(OSError):  # a closed terminal may be what ended it
            told = err() if console.lost else console
            told.print(
                f"{stop}, and everything is saved. Resume with:\n  {again}"
                if stop.phase
                else f"{stop}: nothing was trained yet. Start again with:\n  {again}",
                soft_wrap=True,
            )
        if console.lost:
            console.lost.told = True
            raise console.lost from stop
        raise
    if console.lost:
        raise console.lost
    if then:
        console.print(
            f"done in {duration(time.monotonic() - began)}. Try:",
            *(f"\n  {line}" for line in then),
            sep="",
            soft_wrap=True,
        )
