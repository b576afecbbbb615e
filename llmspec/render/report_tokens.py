"""`explain RUN --tokens` on the terminal: answers in colours that say which tokens the model now prefers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.padding import Padding

from llmspec.core.visible import visible
from llmspec.explain.token_ratios import MOST, AnswerRatios, RatioReport, TokenRatio
from llmspec.render.report_shared import facts, heading, percent, table
from llmspec.render.terminal import Screen, Text

STEPS = (0.5, 1.5, 3.0)
"""Nats from which on a token is marked, more strongly, and most strongly: 1.6, 4.5 and 20 times as probable."""
MORE = ("green", "bold green", "bold reverse green")
LESS = ("red", "bold red", "bold reverse red")
BEFORE = 30
"""Characters of the answer that are shown before a place."""


def show(report: RatioReport, console: Screen) -> None:
    """The answers, the tokens that gained most, and the places where the two models differ most."""
    console.print(
        Text.assemble((report.name, "bold"), f", after {report.phase}: its tokens beside those of {report.against}")
    )
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    console.print(
        facts(
            [
                ("divergence", f"{report.divergence:.3f} nats a token, KL({report.phase} ‖ {report.against})"),
                ("seed", str(report.seed)),
            ]
        )
    )
    heading(console, "answers")
    console.print(legend(report, coloured))
    for answer in report.answers:
        console.print()
        console.print(Padding(Text(visible(answer.prompt).strip(), style="bold"), (0, 0, 0, 2)))
        console.print(Padding(said(answer, coloured), (0, 0, 0, 4)))
        console.print(
            Padding(Text(f"log-ratio {answer.ratio:+.2f} in {len(answer.tokens)} tokens", style="dim"), (0, 0, 0, 4))
        )
    if report.preferred:
        heading(console, "preferred tokens", f"those that are more probable than with {report.against}")
        made = table("token", "times", "log-ratio", right=("times", "log-ratio"))
        for token in report.preferred:
            made.add_row("  " + token.text, str(token.times), f"{token.ratio:+.2f}")
        console.print(made)
    show_places(console, report)


def legend(report: RatioReport, coloured: bool) -> Text:
    """What colours, or signs, mean."""
    text = Text()
    what = f"log p({report.phase}) − log p({report.against}) of each token, in nats, marked from these on:"
    text.append(what, "dim").append("  ")
    marks = [(-least, "-" * (i + 1), LESS[i]) for i, least in enumerate(STEPS)][::-1]
    marks += [(least, "+" * (i + 1), MORE[i]) for i, least in enumerate(STEPS)]
    for least, signs, style in marks:
        if coloured:
            text.append(f" {least:+g} ", style).append("  ")
        else:
            text.append(f"{{{signs}}} {least:+g}  ")
    return text


def said(answer: AnswerRatios, coloured: bool) -> Text:
    """An answer whose tokens are coloured, or followed by signs."""
    text = Text()
    for token in answer.tokens:
        shown = token.text.replace("·", " ").replace("⏎", "⏎\n")
        rank = strength(token.ratio)
        style = "" if not rank else (MORE if rank > 0 else LESS)[abs(rank) - 1]
        text.append(shown, style=style if coloured else None)
        if rank and not coloured:
            text.append(f"{{{('+' if rank > 0 else '-') * abs(rank)}}}")
    return text


def strength(ratio: float) -> int:
    """How strongly a token is marked: from −3 to 3, 0 where it is not."""
    steps = sum(abs(ratio) >= least for least in STEPS)
    return steps if ratio > 0 else -steps


def show_places(console: Screen, report: RatioReport) -> None:
    """Where the two would go on most differently."""
    places: list[tuple[TokenRatio, str]] = []
    for answer in report.answers:
        before = ""
        for token in answer.tokens:
            places.append((token, before))
            before += token.text
    found: Sequence[tuple[TokenRatio, str]] = sorted(places, key=lambda place: -place[0].divergence)[:MOST]
    if not found:
        return
    heading(console, "where they differ most", "the token that was drawn, and the one that was most probable before")
    made = table("after", "drawn", "now", "was", "before", "now", "was", "KL", right=("now", "was", "KL"))
    for token, before in found:
        tail = before if len(before) <= BEFORE else "…" + before[1 - BEFORE :]
        now, was = token.before_p
        made.add_row(
            "  " + (tail or "(the beginning)"),
            token.text,
            chance(token.logp),
            chance(token.other_logp),
            token.before,
            percent(now),
            percent(was),
            f"{token.divergence:.2f}",
        )
    console.print(made)


def chance(logp: float) -> str:
    """A log-probability as a probability."""
    from math import exp

    return percent(exp(logp))
