"""Problems on the terminal: where, what, what to write instead, and what would have happened."""

from __future__ import annotations

from collections.abc import Sequence

from llmspec.core.problems import Problem, dotted
from llmspec.core.visible import visible
from llmspec.render.terminal import Text, err


def show(problems: Sequence[Problem]) -> None:
    """Prints every problem to standard error."""
    console = err(soft_wrap=True)
    for problem in problems:
        console.print(as_text(problem))
    if len(problems) > 1:
        console.print(f"{len(problems)} problems")


def as_text(problem: Problem) -> Text:
    """One problem in a few lines."""
    text = Text()
    if problem.mark:
        text.append(f"{one_line(str(problem.mark))}: ", style="bold")
    if problem.path:
        text.append(f"{one_line(dotted(problem.path))}: ", style="cyan")
    text.append(problem.message, style="red")
    if problem.mark and problem.mark.text:
        text.append("".join(f"\n  {line.strip()}" for line in problem.mark.excerpt().splitlines() if line), style="dim")
    if problem.hint:
        text.append("\n  hint: ", style="green").append(problem.hint)
    if problem.consequence:
        text.append("\n  otherwise: ", style="yellow").append(problem.consequence)
    return text


def one_line(text: str) -> str:
    """A name in one line, also where it holds a line's end."""
    return visible(text, keep="")
