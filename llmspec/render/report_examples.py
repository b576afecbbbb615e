"""What is really read, on the terminal: examples with what counts in the loss, and the tokenizer's pieces."""

from __future__ import annotations

from collections.abc import Sequence

from rich.padding import Padding

from llmspec.core.visible import visible
from llmspec.explain.decoding import visible_bytes
from llmspec.explain.examples import Example, Tokenization
from llmspec.explain.templates import FilledTemplate
from llmspec.render.report_shared import heading
from llmspec.render.terminal import Screen, Text

OPEN, CLOSE = "⟦", "⟧"
"""Around what counts in the loss, so that it shows without colours too."""


def show_examples(console: Screen, found: Sequence[Example]) -> None:
    """A paragraph for each source of each phase."""
    heading(
        console, "what is trained on", f"the first tokens of a row; {OPEN}between these{CLOSE} they count in the loss"
    )
    for example in found:
        weight = "" if example.weight is None else f", where it counts {example.weight:g} times"
        console.print(Text.assemble("  ", (example.phase, "bold"), f" of {example.source}", weight))
        text = Text()
        for piece, learned in example.pieces:
            shown = " ".join(visible(piece).split("\n"))
            text.append(f"{OPEN}{shown}{CLOSE}" if learned else shown, style="green" if learned else "dim")
        console.print(Padding(text.append(" …" if example.cut else ""), (0, 0, 0, 4)))


def show_filled(console: Screen, found: Sequence[FilledTemplate]) -> None:
    """A dialogue of each source that has a template or examples, turn by turn, with the record of each."""
    heading(console, "templates, filled", "a training record as a dialogue, and where each turn is from")
    for one in found:
        how = [f"template {one.template}"] if one.template else []
        how += [f"{one.shots} example{'s' * (one.shots != 1)} before it"] if one.shots else []
        console.print(Text.assemble("  ", (one.source, "bold"), f": {', '.join(how)}"))
        for turn in one.turns:
            said = " ".join(visible(turn.text).split())
            text = Text.assemble((f"{turn.role}: ", "bold"), said, (f"  ({visible(turn.where)})", "dim"))
            console.print(Padding(text, (0, 0, 0, 4)))


def show_tokenization(console: Screen, found: Tokenization) -> None:
    """A sentence cut into tokens, and the first merges in their order."""
    heading(console, "tokenizer", f"a sentence as tokens, {found.characters_per_token:.2f} characters each")
    text = Text()
    for index, token in enumerate(found.tokens):
        text.append("│" if index else "", style="dim").append(visible_bytes(token.encode()))
    console.print(Padding(text, (0, 0, 0, 2)))
    if found.merges:
        pairs = "  ".join(f"{visible_bytes(a.encode())}+{visible_bytes(b.encode())}" for a, b in found.merges)
        console.print(Padding(Text(f"first merges:  {pairs}", style="dim"), (0, 0, 0, 2)))
