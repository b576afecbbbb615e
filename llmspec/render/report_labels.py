"""How well labels were told, on the terminal: each label's scores, and which was taken for which."""

from __future__ import annotations

from collections.abc import Sequence

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
AGAINST = "is \\ said"
TITLES = {"words": "tags", "entities": "entities"}
"""What has labels -> what these are called, where that is something else."""
INDENT, GAP = 2, 2
"""Columns before a table, and between two of its columns."""


def show(console: Screen, found: LabelTable) -> None:
    """A source's labels."""
    right = (found.of, "precision", "recall", "F1")
    made = table("label", *right, right=right, indent=0)
    listed = sorted(found.scores, key=lambda score: -score.texts)
    for score in listed[:MOST]:
        shares = (f"{value:.1%}" for value in (score.precision, score.recall, score.f1))
        made.add_row(visible(score.label), number(score.texts), *shares)
    console.print(
        Padding(
            Text(f"{TITLES.get(found.of, 'labels')} of {found.source}, at step {number(found.step)}", style="bold"),
            (0, 0, 0, 2),
        )
    )
    console.print(Padding(made, (0, 0, 0, 2)))
    if len(listed) > MOST:
        console.print(Padding(Text(f"and {len(listed) - MOST} more labels", style="dim"), (0, 0, 0, 2)))
    if found.confusion and not (len(found.scores) <= CROSSED and crossed(console, found)):
        mistakes(console, found)


def crossed(console: Screen, found: LabelTable) -> bool:
    """The confusion table: a row a true label, a column what was said; columns are numbered where there is no room for
    their names. False where there is no room for their counts either, and nothing is shown."""
    counts = {(i, j): n for i, j, n in found.confusion}
    labels = [visible(score.label) for score in found.scores]
    cells = [[number(counts.get((i, j), 0)) for j in range(len(labels))] for i in range(len(labels))]
    names = [short(label) for label in labels]
    if width(names, cells) + max(map(len, (AGAINST, *labels))) > console.width:
        names = [str(j + 1) for j in range(len(labels))]
        labels = [f"{j + 1:>{len(names[-1])}} {label}" for j, label in enumerate(labels)]
        words = [word for label in labels for word in label.split()]
        if width(names, cells) + len(names[-1]) + 1 + max(map(len, (AGAINST, *words))) > console.width:
            return False
    made = table(AGAINST, *names, right=tuple(names), indent=0)
    for i, label in enumerate(labels):
        styles = ("green" if i == j else "red" if counts.get((i, j)) else "dim" for j in range(len(names)))
        made.add_row(label, *(Text(cell, style=style) for cell, style in zip(cells[i], styles, strict=True)))
    console.print(Padding(made, (0, 0, 0, INDENT)))
    return True


def width(names: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that a table takes beside its first column."""
    columns = zip(names, zip(*cells, strict=True), strict=True)
    return INDENT + sum(GAP + max(map(len, (name, *column))) for name, column in columns) + GAP


def mistakes(console: Screen, found: LabelTable) -> None:
    """The commonest mistakes among many labels."""
    wrong = sorted(((n, i, j) for i, j, n in found.confusion if i != j), key=lambda one: -one[0])
    if not wrong:
        return
    made = table("is", "was taken for", found.of, right=(found.of,), indent=0)
    for n, i, j in wrong[:MISTAKES]:
        made.add_row(visible(found.scores[i].label), visible(found.scores[j].label), number(n))
    console.print(Padding(made, (0, 0, 0, 2)))


def short(label: str) -> str:
    """A label for the head of a column."""
    shown = visible(label)
    return shown if len(shown) <= CELL else shown[: CELL - 1] + "…"
