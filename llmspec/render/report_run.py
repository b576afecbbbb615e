"""`explain RUN` on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.padding import Padding
from rich.table import Table

from llmspec.core.units import count, duration, size
from llmspec.core.visible import visible
from llmspec.explain.curves import Curve, TimePart, ValidationCurve
from llmspec.explain.ledger import COUNTED, LedgerRow
from llmspec.explain.plan_vs_actual import Fact
from llmspec.explain.run import PhaseRun, RunReport, Sample
from llmspec.render import certificates, checks, report_answers, report_labels
from llmspec.render.report_charts import MARKS, chart
from llmspec.render.report_shared import NARROW, bullets, facts, flops, heading, number, percent, spark, table
from llmspec.render.terminal import Screen, Text

SAMPLE_STAGES = 3
"""Samples shown of each prompt: the first, the last and what lies between."""
SAMPLE_LINES = 4
SAMPLE_WORDS = 12
"""Words of an answer whose attention is shown."""
SKIPPED = 8
"""Skipped steps that are named."""
SIDE = (0, 0, 0, 4)
STYLES = {"done": "green", "begun": "yellow", "waiting": "dim", "of another plan": "red"}


def show(report: RunReport, console: Screen) -> None:
    """The whole report: where it stands, each phase, samples, whom to name."""
    console.print(Text.assemble((report.name, "bold"), f": {report.state}"))
    console.print(
        facts(
            [
                ("folder", report.path),
                ("parameters", number(report.parameters)),
                ("device", ", ".join(x for x in (report.device, report.machine) if x)),
                ("time", f"{duration(report.seconds)} in training steps" if report.seconds else ""),
                ("peak", f"{flops(report.peak_flops)}/s in its fastest matrix product" if report.peak_flops else ""),
                ("decoding", report.decoding.sentence if report.decoding else ""),
                ("seed", str(report.seed)),
                ("packages", ", ".join(f"{name} {version}" for name, version in report.packages.items())),
            ]
        )
    )
    if report.checks:
        heading(console, "checks", "checked before step 0")
        checks.show(report.checks, console)
    if report.certificate:
        heading(console, "resume certificate", "each phase was stopped and resumed on a short budget")
        certificates.show(report.certificate, console, report.stale)
    if any(phase.facts for phase in report.phases):
        show_promises(console, report.phases)
    if len(report.phases) > 1:
        show_overview(console, report.phases)
    for phase in report.phases:
        show_phase(console, phase)
    if any(p.samples for p in report.phases):
        heading(console, "samples over time", "what it wrote; the prompt is bold")
        for phase in report.phases:
            show_samples(console, phase)
    if report.answers:
        report_answers.show(console, report.answers)
    heading(console, "trained on", "name these sources wherever its text is shown")
    for source in report.sources:
        licence = source.license or "no licence given"
        console.print(
            Padding(Text(", ".join(x for x in (f"{source.source}: {licence}", source.attribution) if x)), (0, 0, 0, 2))
        )
    if report.remarks:
        heading(console, "remarks")
        bullets(console, report.remarks)
    if report.further:
        heading(console, "more")
        for command in report.further:
            console.print(Text(f"  {command}"), soft_wrap=True)


# -- promises ------------------------------------------------------------------------------------------------------
def show_promises(console: Screen, phases: Sequence[PhaseRun]) -> None:
    """What was promised before step 0 beside what came, a block a phase."""
    heading(console, "estimated and measured", "what was estimated before the first step, and what was measured")
    for phase in phases:
        if not phase.facts:
            continue
        made = table(phase.name, "estimated", "measured", "off", "", right=("estimated", "measured", "off"))
        for fact in phase.facts:
            off = "" if fact.off is None else "0" if fact.off == 0 else f"{fact.off:+.1%}"
            made.add_row(
                f"  {fact.what}",
                amount(fact, fact.promised),
                amount(fact, fact.actual),
                off,
                Text(fact.note, style="dim"),
            )
        console.print(made)


def amount(fact: Fact, value: float | None) -> str:
    """A quantity in its unit; a dash where there is none."""
    if value is None:
        return "–"
    shown = {"seconds": duration, "bytes": size, "FLOPs": flops, "joules": lambda v: f"{v:,.0f} J"}
    return shown.get(fact.unit, number)(value)


def show_overview(console: Screen, phases: Sequence[PhaseRun]) -> None:
    """A line a phase: what it starts from, how long it is, what it did."""
    heading(console, "phases", "what each did: validation where there is one, else what it minimised")
    made = table("phase", "kind", "from", "steps", "time", "from its first to its last", right=("steps", "time"))
    for phase in phases:
        if phase.validation:
            v = phase.validation[0]
            main, curve = v.scores[-1].main, v.curve()
            name, unit, first, last = main.name, main.unit, curve.values[0], curve.values[-1]
        elif phase.loss.values:
            name, unit = phase.metrics[0].name, phase.metrics[0].unit
            first, last = phase.loss.values[0], phase.loss.around(phase.loss.steps[-1])
        else:
            name = ""
        did = f"{name} {figure(first)} → {figure(last)} {unit}".rstrip() if name else ""
        made.add_row(
            f"  {phase.name}",
            phase.kind,
            visible(phase.start),
            number(phase.step or phase.steps),
            duration(phase.seconds) if phase.seconds else "",
            Text(did or phase.state, style="" if did else STYLES[phase.state]),
        )
    console.print(made)


def show_phase(console: Screen, phase: PhaseRun) -> None:
    """One phase of a run: where it stands, its curves, what it took and read."""
    heading(console, phase.name)
    planned = f" of {number(phase.steps)}" if phase.steps else ""
    stands = {
        "done": f"done, {number(phase.step)} steps",
        "begun": f"after step {number(phase.step)}{planned}",
        "waiting": f"has not begun; {number(phase.steps)} steps are planned",
        "of another plan": "was trained with other settings than this plan's",
    }[phase.state]
    console.print(Text.assemble(f"  {phase.kind}: ", (stands, STYLES[phase.state])))
    copied = (f"trained in {phase.copied}, and copied from there",) if phase.copied else ()
    for said in (*copied, *phase.continued, *phase.beside):
        console.print(Padding(Text(visible(said)), (0, 0, 0, 2)))
    if phase.ended:
        console.print(Padding(Text(f"ended before its budget: {visible(phase.ended)}"), (0, 0, 0, 2)))
    if phase.skipped:
        console.print(Padding(Text(skipped(phase.skipped)), (0, 0, 0, 2)))
    if phase.best:
        console.print(Padding(Text(f"leaves {visible(phase.best)}"), (0, 0, 0, 2)))
    if phase.loss.values:
        show_curves(console, phase)
    if phase.validation:
        console.print(Padding(scores(phase.validation, console.width - 2), (0, 0, 0, 2)))
    for labelled in phase.labels:
        report_labels.show(console, labelled)
    if phase.ledger and phase.state != "of another plan":
        show_ledger(console, phase)


def skipped(steps: Sequence[int]) -> str:
    """Which steps were not applied, the first few of them."""
    named = ", ".join(map(number, steps[:SKIPPED])) + (" …" if len(steps) > SKIPPED else "")
    one = len(steps) == 1
    return f"{len(steps)} step{'s' * (not one)} skipped, whose loss was a spike: {named}"


# -- curves --------------------------------------------------------------------------------------------------------
def show_curves(console: Screen, phase: PhaseRun) -> None:
    """The loss as a chart where there is room and a terminal, the rest as a line of bars each."""
    first, drawn, held_out = phase.metrics[0], None, dict[str, Curve]()
    if console.is_terminal and console.width >= NARROW and len(phase.loss.values) > 1:
        held_out = {v.source: curve for v in phase.validation if (curve := v.curve(first.name, first.unit)).values}
        drawn = chart(first.curve, list(held_out.values()), console.width - 4)
    if drawn:
        legend = Text.assemble(f"{first.name}{in_unit(first.unit)}: ", ("⠒ ", "cyan"), "training")
        for mark, source in zip(MARKS, held_out, strict=False):
            legend.append(f"   {mark} ", style="yellow").append(f"validation {source}")
        console.print(Padding(legend, (0, 0, 0, 2)))
        console.print(Padding(drawn, (0, 0, 0, 2)))
    width = max(8, min(40, console.width - 52))
    console.print(facts(lines(phase, width, charted=drawn is not None)))


def lines(phase: PhaseRun, width: int, charted: bool) -> Iterator[tuple[str, Any]]:
    """Rows (label, curve or words) of a phase's losses; short ones beside a chart."""

    def line(curve: Curve, words: str, floor: float | None = None) -> Text:
        return Text.assemble((spark(curve.values, width, floor), "cyan"), "  ", words)

    for i, metric in enumerate(phase.metrics):
        if (curve := metric.curve).values:
            ends = f"{figure(curve.values[0])} → {figure(curve.around(curve.steps[-1]))} {metric.unit}".rstrip()
            yield metric.name, ends if charted and not i else line(curve, ends)
    for v in phase.validation:
        main, curve = v.scores[-1].main, v.curve()
        if not charted or (main.name, main.unit) != (phase.metrics[0].name, phase.metrics[0].unit):
            ends = " → ".join(figure(x) for x in dict.fromkeys((curve.values[0], curve.values[-1])))
            yield f"validation {v.source}", line(curve, f"{ends} {main.unit or main.name}")
    if rates := phase.learning_rate.values:
        yield "learning rate", line(phase.learning_rate, f"peak {max(rates):.3g}, now {rates[-1]:.3g}", 0.0)
    if norms := phase.gradient_norm.values:
        clipped = f", clipped in {phase.clipped:.0%}" if phase.clipped else ""
        yield "gradient norm", line(phase.gradient_norm, f"{min(norms):.3g} to {max(norms):.3g}{clipped}")
    if phase.tokens_per_second:
        computes = f", {flops(phase.flops_per_second)}/s" if phase.flops_per_second else ""
        yield "speed", line(phase.speed, f"{count(phase.tokens_per_second)} tokens/s{computes}", 0.0)
    if phase.seconds:
        yield "time", f"{duration(phase.seconds)} in steps, the slowest took {duration(phase.slowest_step or 0.0)}"
    if phase.parts:
        yield "of which", ", ".join(part_of_time(part) for part in phase.parts)


def part_of_time(part: TimePart) -> str:
    """`drawing 12% (estimated 15%)`."""
    estimated = f" (estimated {percent(part.promised)})" if part.promised is not None else ""
    return f"{visible(part.name)} {percent(part.share)}{estimated}"


def figure(value: float) -> str:
    """A number in four digits or so: 12,345, 3.142, 0.031, 1.2e-05."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3f}" if size >= 0.01 or not value else f"{value:.1e}"


TITLE = "validation"


def scores(found: tuple[ValidationCurve, ...], width: int) -> Table:
    """The last validation of each source, and its best where that is another; a column a metric, or a row a metric
    where so many columns would not fit into the width."""
    labels = tuple(dict.fromkeys(m.label for v in found for m in v.scores[-1].metrics))
    lines: list[tuple[str, dict[str, str]]] = []
    for v in found:
        last, best = v.scores[-1], v.best
        for name, score in (
            (v.source, last),
            *(((f"{v.source}, best", best),) if best.main.value != last.main.value else ()),
        ):
            lines.append((name, {**{m.label: m.shown for m in score.metrics}, "at step": number(score.step)}))
    columns = (*labels, "at step")
    needed = [max(len(label), *(len(cells.get(label, "")) for _, cells in lines)) + 2 for label in columns]
    if sum(needed) + max(map(len, (TITLE, *(name for name, _ in lines)))) + 2 <= width:
        made = table(TITLE, *columns, right=columns, indent=0)
        for name, cells in lines:
            made.add_row(name, *(cells.get(label, "") for label in columns))
        return made
    names = [name for name, _ in lines]
    made = table(TITLE, *names, right=names, indent=0)
    for label in columns:
        made.add_row(label, *(cells.get(label, "") for _, cells in lines))
    return made


def in_unit(unit: str) -> str:
    """` in nats/token`; nothing of a plain number."""
    return f" in {unit}" if unit else ""


# -- ledger and samples --------------------------------------------------------------------------------------------
def show_ledger(console: Screen, phase: PhaseRun) -> None:
    """What was read, held against the plan."""
    counted = any(n is not None for row in phase.ledger for n in row.actual.values())
    columns = ("read", "supervised", "repeated", "dropped", "overlap")  # of COUNTED, as wide as a terminal allows
    made = table("tokens" if counted else "planned tokens", *columns, "epochs", right=(*columns, "epochs"), indent=0)
    for row in phase.ledger:
        made.add_row(row.source, *(cell(row, k) for k in COUNTED), "?" if row.epochs is None else f"{row.epochs:.2f}")
    console.print(Padding(made, (0, 0, 0, 2)))
    for row in phase.ledger:
        for counts, what in ((row.dropped, ""), (row.validation_dropped, ", of those kept for validation")):
            if reasons := ", ".join(f"{number(n)} {reason}" for reason, n in (counts or {}).items()):
                console.print(Padding(Text(f"{row.source}{what}: left out: {reasons}"), (0, 0, 0, 2)))
    if counted:
        wrong = any(row.differences for row in phase.ledger)
        verdict = Text(
            "not as planned: see the remarks" if wrong else "the counts match the plan",
            style="red" if wrong else "green",
        )
        console.print(Padding(verdict, (0, 0, 0, 2)))


def cell(row: LedgerRow, key: str) -> Text:
    """What was counted, marked where the plan says another number; the plan's number where nothing was counted."""
    actual = row.actual.get(key)
    if actual is None:
        return Text(number(row.planned.get(key)))
    wrong = key in row.differences
    return Text(number(actual) + ("!" if wrong else ""), style="red" if wrong else "")


def show_samples(console: Screen, phase: PhaseRun) -> None:
    """A few stages of each prompt, so that its learning can be seen."""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in phase.samples:
        by_prompt.setdefault(sample.prompt, []).append(sample)
    for samples in by_prompt.values():
        last = len(samples) - 1
        chosen = sorted({round(i * last / (SAMPLE_STAGES - 1)) for i in range(SAMPLE_STAGES)})
        for sample in (samples[i] for i in chosen):
            show_sample(console, phase.name, sample)
        show_attention(console, samples[-1])


def show_sample(console: Screen, phase: str, sample: Sample) -> None:
    """One sample, cut to a few lines; of a long prompt the middle, so that what was said can be seen."""
    origin = f", prompt from the {visible(sample.origin)}" if sample.origin else ""
    console.print(Text(f"  {phase}, step {number(sample.step)}{origin}", style="dim"))
    prompt = shortened(visible(sample.prompt).strip(), max(10, console.width - 4) * SAMPLE_LINES // 2)
    nothing = f"(it failed: {visible(sample.error)})" if sample.error else "(nothing)"
    text = Text.assemble(
        (prompt, "bold"),
        "\n" if sample.prompt.endswith("\n") else " " if prompt else "",
        visible(sample.text).strip() or nothing,
    )
    text.expand_tabs(4)
    wrapped = text.wrap(console, max(10, console.width - 4))
    for line in wrapped[:SAMPLE_LINES]:
        line.rstrip()
        console.print(Padding(line, (0, 0, 0, 4)))
    if len(wrapped) > SAMPLE_LINES:
        console.print(Text("    …", style="dim"))
    if sample.target:
        hit = sample.text.split() == sample.target.split()
        wanted = Text(f"wanted: {visible(sample.target).strip()}", style="green" if hit else "yellow")
        console.print(Padding(wanted, SIDE))


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: its beginning and its end."""
    return text if len(text) <= most else f"{text[: most // 2 - 2].rstrip()} … {text[2 - most // 2 :].lstrip()}"


def show_attention(console: Screen, sample: Sample) -> None:
    """What of the source each word of an answer looked at."""
    if not sample.attention:
        return
    width = max(len(visible(word)) for word, _ in sample.attention)
    for word, looks in sample.attention[:SAMPLE_WORDS]:
        shares = ", ".join(f"{visible(at)} {share:.0%}" for at, share in looks)
        console.print(Padding(Text(f"{visible(word):{width}} ← {shares}", style="dim"), SIDE))
