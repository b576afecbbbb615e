"""`explain RUN --prompt` on the terminal: a block for each token, side by side where there is room."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.padding import Padding
from rich.table import Table

from llmspec.core.visible import visible
from llmspec.explain.decoding import PromptReport, TokenCandidate, TokenReport
from llmspec.render.report_shared import bar, facts, heading, number
from llmspec.render.terminal import Screen, Text

BLOCK = 66
"""Columns that a token's block takes at least, when several stand side by side."""
TOKEN = 16
"""Columns for a token's text."""
BAR = 10
ENDS = {
    "stop": "a stop sequence or the end of the turn",
    "end": "the end token",
    "max_tokens": "max_tokens",
    "length": "the end of the context",
}


def show(report: PromptReport, console: Screen) -> None:
    """Prompt, answer, how to read the blocks, the blocks."""
    console.print(Text.assemble((report.name, "bold"), f", after {report.phase}: how each token was chosen"))
    chain = " → ".join(f"{name} ({settings})" for name, settings in report.filters)
    console.print(
        facts(
            [
                ("prompt", visible(report.prompt) or "(empty)"),
                ("as tokens", Text(" ").join(Text(t, style="reverse dim") for t in report.prompt_tokens)),
                ("filters", chain or "no filter is on: tokens are drawn from the model's own probabilities"),
                ("seed", str(report.seed)),
                ("answer", Text(visible(report.text).strip() or "(nothing but white space)", style="bold")),
                ("ended by", ENDS.get(report.finish_reason or "", "")),
            ]
        )
    )
    heading(console, "token by token")
    explain_blocks(console, report)
    columns = max(1, (console.width + 2) // (BLOCK + 2)) if len(report.columns) <= 4 else 1
    width = (console.width - 2 * (columns - 1)) // columns
    for start in range(0, len(report.tokens), columns):
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        for _ in range(columns):
            grid.add_column(width=width, no_wrap=True)
        grid.add_row(*(block(t, report.columns, width) for t in report.tokens[start : start + columns]))
        console.print()
        console.print(grid)
    for source in report.sources:
        credit = ", ".join(x for x in (source["license"], source["attribution"]) if x)
        console.print(Padding(Text(f"trained on {source['source']} ({credit})", style="dim"), (0, 0, 0, 2)))


def explain_blocks(console: Screen, report: PromptReport) -> None:
    """What the columns and signs mean."""
    words = (
        "Each row is a token that could have come next, the most probable first, and ▸ the one that was drawn. "
        "The column `model` is the probability that the model gives it"
    )
    words += (
        "; each further column is what the filter of that name leaves of it, and – a token that it cut. "
        if report.filters
        else ". "
    )
    words += (
        "Entropy (bits) says how open the choice is: 0 is certain, 1 a coin toss, "
        f"{bits_of_any(report.vocab):.1f} a uniform choice among all {number(report.vocab)} tokens. "
        "· is a space, ⏎ a new line, \\x.. a byte that is no whole character."
    )
    console.print(Text(words, style="dim"))


def bits_of_any(vocab: int) -> float:
    """Entropy of a uniform choice."""
    return math.log2(max(1, vocab))


def block(token: TokenReport, columns: Sequence[str], width: int) -> Text:
    """One token among its candidates."""
    widths = [max(7, len(name)) + 1 for name in columns]
    room = width - TOKEN - 4 - sum(widths)
    text = Text(no_wrap=True)
    text.append(fitted(f"{token.position}", TOKEN + 4), style="bold")
    text.append("".join(name.rjust(w) for name, w in zip(columns, widths, strict=True)) + "\n", style="dim")
    for candidate in token.candidates:
        append_candidate(text, candidate, widths, room)
    text.append(fitted("    entropy, bits", TOKEN + 4), style="dim")
    text.append("".join(f"{h:.2f}".rjust(w) for h, w in zip(token.entropy_bits, widths, strict=True)) + "\n")
    text.append(fitted("    tokens left", TOKEN + 4), style="dim")
    text.append("".join(number(n).rjust(w) for n, w in zip(token.kept, widths, strict=True)) + "\n")
    return text.append(fitted(outcome(token), width).rstrip(), style="dim")


def outcome(token: TokenReport) -> str:
    """How likely the draw was, and what the model itself thought of the token."""
    rank = next(c.rank for c in token.candidates if c.chosen)
    ends = f", the last: {token.finish_reason}" if token.finish_reason else ""
    return (
        f"    drawn with {probability(token.probability)}, rank {rank} of the model's, log-probability "
        f"{token.logprob:.2f} nats{ends}"
    )


def append_candidate(text: Text, candidate: TokenCandidate, widths: Sequence[int], room: int) -> None:
    """One candidate's row; the bar is its last probability, where there is room for it."""
    style = "bold green" if candidate.chosen else "" if candidate.probabilities[-1] else "dim"
    text.append("  ▸ " if candidate.chosen else "    ", style=style)
    text.append(fitted(candidate.text, TOKEN), style=style)
    for p, width in zip(candidate.probabilities, widths, strict=True):
        text.append(("–" if p == 0 else probability(p)).rjust(width), style=style)
    if room > 3:
        drawn = bar(candidate.probabilities[-1], min(BAR, room - 2))
        text.append(f" {drawn}", style="green" if candidate.chosen else "cyan")
    text.append("\n")


def probability(p: float) -> str:
    """0.4213 -> '42.1%'; what is there is never shown as 0."""
    return f"{p:.1%}" if p >= 0.0005 else "<0.1%"


def fitted(text: str, width: int) -> str:
    """Text in exactly `width` columns, cut with an ellipsis where it is longer; wide characters count twice."""
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
