"""How well labels were told, on the terminal: each label's scores, and which was taken for which."""

from __future__ import annotations

from rich.padding import Padding

from llmspec.core.visible import visible
from llmspec.explain.labels import LabelTable
from llmspec.render.report_shared import number, table
from llmspec.render.terminal import Screen, Text

MOST = 40
"""Labels that are listed, those of the most texts first."""
CROSSED = 12
"""Labels of a table of what was taken for what; of more, the commonest mistakes are listed."""
MISTAKES = 10
CELL = 12
"""Characters of a label at the head of a column."""


def show(console: Screen, found: LabelTable) -> None:
    """A source's labels."""
    made = table("label", "texts", "precision", "recall", "F1", right=("texts", "precision", "recall", "F1"), indent=0)
    listed = sorted(found.scores, key=lambda score: -score.texts)
    for score in listed[:MOST]:
        shares = (f"{value:.1%}" for value in (score.precision, score.recall, score.f1))
        made.add_row(visible(score.label), number(score.texts), *shares)
    console.print(Padding(Text(f"labels of {found.source}, at step {number(found.step)}", style="bold"), (0, 0, 0, 2)))
    console.print(Padding(made, (0, 0, 0, 2)))
    if len(listed) > MOST:
        console.print(Padding(Text(f"and {len(listed) - MOST} more labels", style="dim"), (0, 0, 0, 2)))
    if found.confusion and len(found.scores) <= CROSSED:
        crossed(console, found)
    elif found.confusion:
        mistakes(console, found)


def crossed(console: Screen, found: LabelTable) -> None:
    """The confusion table: a row a true label, a column what was said."""
    names = [short(score.label) for score in found.scores]
    made = table("is \\ said", *names, right=tuple(names), indent=0)
    counts = {(i, j): n for i, j, n in found.confusion}
    for i, score in enumerate(found.scores):
        cells = (
            Text(number(counts.get((i, j), 0)), style="green" if i == j else "red" if counts.get((i, j)) else "dim")
            for j in range(len(names))
        )
        made.add_row(visible(score.label), *cells)
    console.print(Padding(made, (0, 0, 0, 2)))


def mistakes(console: Screen, found: LabelTable) -> None:
    """The commonest mistakes among many labels."""
    wrong = sorted(((n, i, j) for i, j, n in found.confusion if i != j), key=lambda one: -one[0])
    if not wrong:
        return
    made = table("is", "was taken for", "texts", right=("texts",), indent=0)
    for n, i, j in wrong[:MISTAKES]:
        made.add_row(visible(found.scores[i].label), visible(found.scores[j].label), number(n))
    console.print(Padding(made, (0, 0, 0, 2)))


def short(label: str) -> str:
    """A label for the head of a column."""
    shown = visible(label)
    return shown if len(shown) <= CELL else shown[: CELL - 1] + "…"
