"""A chart of losses in characters, by plotext; None where plotext cannot draw it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import pairwise

from llmspec.explain.curves import Curve
from llmspec.render.terminal import Text

ROWS = 14
TICKS = 5
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
    line = averaged(training, 2 * width)  # a braille character is two dots wide
    figure.draw(figure.signal(list(line.steps), list(line.values), marker="braille").lines())
    for mark, curve in zip(MARKS, held_out, strict=False):
        figure.draw(figure.signal(list(curve.steps), list(curve.values), marker=mark).lines(False))
    first, last = line.steps[0], line.steps[-1]
    ticks = sorted({round(first + (last - first) * i / (TICKS - 1)) for i in range(TICKS)})
    figure.ruler("x").ticks(ticks, [f"{t:,}" for t in ticks])
    figure.label("step")
    return coloured(plotext.uncolorize(str(figure.build())), width)


def averaged(curve: Curve, points: int) -> Curve:
    """The curve with at most `points` values, each the mean of its neighbours, from the first step to the last."""
    n = len(curve.values)
    points = min(points, n)
    edges = [i * n // points for i in range(points + 1)]
    steps = tuple(curve.steps[i * (n - 1) // max(1, points - 1)] for i in range(points))
    return Curve(steps, tuple(sum(curve.values[a:b]) / (b - a) for a, b in pairwise(edges)))


def coloured(drawn: str, width: int) -> Text:
    """The chart in this terminal's own colours: the line, the marks, and a quiet frame."""
    text = Text("\n".join(line.rstrip()[:width] for line in drawn.rstrip().splitlines()), no_wrap=True)
    text.stylize("dim")
    text.highlight_regex("[\u2800-\u28ff]+", "not dim cyan")
    text.highlight_regex(f"[{MARKS}]", "not dim yellow")
    return text
