"""`explain RUN --by REWARD` on the terminal: how often one phase answers better than another."""

from __future__ import annotations

from rich.padding import Padding

from llmspec.core.visible import visible
from llmspec.explain.wins import Example, WinReport
from llmspec.render.report_shared import bar, bullets, facts, heading, number, percent, table
from llmspec.render.terminal import Screen, Text

LETTERS = 300
"""Of an answer that are shown."""


def show(report: WinReport, console: Screen) -> None:
    """The rate with its interval, the rewards, their parts, and some prompts."""
    console.print(
        Text.assemble((report.name, "bold"), f": {report.phase} against {report.against}, by {report.reward}")
    )
    same = f", {number(report.different)} of them different" if report.different < report.prompts else ""
    rate = f"{percent(report.rate)}, 95% interval {percent(report.low)} to {percent(report.high)}"
    console.print(
        facts(
            [
                ("win rate", Text.assemble((bar(report.rate, 20), "green"), " " * bool(report.rate), rate)),
                (
                    "of which",
                    f"{number(report.wins)} won, {number(report.ties)} tied (half a win each), "
                    f"{number(report.losses)} lost",
                ),
                ("mean reward", f"{report.mean:.3f}; of {report.against} {report.other_mean:.3f}"),
                ("difference", gain(report)),
                ("prompts", f"{number(report.prompts)}{same}, {report.origin}"),
                ("seed", str(report.seed)),
            ]
        )
    )
    if not report.low > 0.5 and not report.high < 0.5:
        bullets(console, ["the interval holds 50%: these prompts do not tell which of the two is better"])
    if report.parts:
        heading(console, "by part")
        made = table(
            "part", report.phase, report.against, "won", "tied", "lost",
            right=(report.phase, report.against, "won", "tied", "lost"),
        )  # fmt: skip
        for part in report.parts:
            counts = (number(part.wins), number(part.ties), number(part.losses))
            made.add_row(f"  {part.name}", f"{part.mean:.3f}", f"{part.other_mean:.3f}", *counts)
        console.print(made)
    for title, won in (("where it won by most", True), ("where it lost by most", False)):
        if found := [e for e in report.examples if (e.score > e.other_score) is won]:
            heading(console, title)
            for example in found:
                show_example(console, report, example)


def gain(report: WinReport) -> str:
    """How much more the one is worth, in standard deviations of the other."""
    more = report.mean - report.other_mean
    return f"{more:+.3f}" + (
        f", {more / report.spread:+.2f} standard deviations of {report.against}'s" if report.spread else ""
    )


def show_example(console: Screen, report: WinReport, example: Example) -> None:
    """A prompt with both answers."""
    console.print(Padding(Text(visible(example.prompt).strip(), style="bold"), (0, 0, 0, 2)))
    for name, text, score in (
        (report.phase, example.text, example.score),
        (report.against, example.other_text, example.other_score),
    ):
        short = visible(text).strip() or "(nothing)"
        short = short if len(short) <= LETTERS else short[: LETTERS - 1] + "…"
        console.print(Padding(Text.assemble((f"{name}, {score:.3f}: ", "dim"), short), (0, 0, 0, 4)))
