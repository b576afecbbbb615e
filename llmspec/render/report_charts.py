"""A chart of losses in characters, by plotext; None where plotext cannot draw it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import pairwise

from rich.text import Text

from llmspec.explain.curves import Curve

ROWS = 14
MARKS = "●▲■◆"
"""One for each validation curve, in order."""


def chart(training: Curve, held_out: Sequence[Curve], width: int) -> Text | None:
    """Training as a line averaged to the width, validation as marks; `width` characters by ROWS."""
    try:
        plotext = importlib.import_module("plotext")
        figure = plotext.figure
    except (ImportError, OSError, AttributeError):  # before version 6 there is no `figure`; its core may not load
        return None
    if not hasattr(figure, "plot_size"):
        return None
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, ROWS)
    line = averaged(training, width)
    figure.draw(figure.signal(list(line.steps), list(line.values), marker="braille"))
    for mark, curve in zip(MARKS, held_out, strict=False):
        points = figure.signal(list(curve.steps), list(curve.values), marker=mark)
        points.line(False)
        figure.draw(points)
    figure.label("step")
    return coloured(plotext.uncolorize(str(figure.build())), width)


def averaged(curve: Curve, points: int) -> Curve:
    """The curve with at most `points` values, each the mean of its neighbours, at the last step among them."""
    n = len(curve.values)
    edges = [i * n // min(points, n) for i in range(min(points, n) + 1)]
    spans = list(pairwise(edges))
    return Curve(tuple(curve.steps[b - 1] for _, b in spans),
                 tuple(sum(curve.values[a:b]) / (b - a) for a, b in spans))


def coloured(drawn: str, width: int) -> Text:
    """The chart in this terminal's own colours: the line, the marks, and a quiet frame."""
    text = Text("\n".join(line.rstrip()[:width] for line in drawn.rstrip().splitlines()), no_wrap=True)
    text.stylize("dim")
    text.highlight_regex("[\u2800-\u28ff]+", "not dim cyan")
    text.highlight_regex(f"[{MARKS}]", "not dim yellow")
    return text
