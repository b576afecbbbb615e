"""What an update did to one token, step by step, on the terminal."""

from __future__ import annotations

from math import exp

from llmspec.core.visible import visible
from llmspec.explain.lesson import Lesson
from llmspec.render.report_shared import bullets, facts, heading, percent
from llmspec.render.terminal import Screen, Text

AROUND = 120
"""Characters of the answer that are shown on either side of the token."""


def show(console: Screen, lesson: Lesson) -> None:
    """From the answer to what its token was pushed by."""
    several = f"{lesson.updates} updates" if lesson.updates > 1 else "one update"
    heading(console, "what an update does", f"{several} up to step {lesson.step:,}, and one token that it learned from")
    before, after = visible(lesson.before), visible(lesson.after)
    answer = Text("…" if len(before) > AROUND else "")
    answer.append(before[-AROUND:]).append(lesson.token, "bold reverse").append(after[:AROUND])
    answer.append("…" if len(after) > AROUND else "")
    console.print(facts([("prompt", Text(visible(lesson.prompt).strip(), style="bold")), ("answer", answer)]))
    console.print()
    console.print(facts(steps(lesson)))
    bullets(console, [verdict(lesson)])


def steps(lesson: Lesson) -> list[tuple[str, Text | str]]:
    """The numbers in the order in which they follow from each other."""
    parts = ", ".join(f"{visible(name)} {value:.3f}" for name, value in lesson.rewards.items())
    counts = "" if list(lesson.rewards.values()) == [lesson.score] else f", which counts as {lesson.score:.3f}"
    others = ", ".join(f"{score:.3f}" for score in sorted(lesson.group, reverse=True)[:8])
    rows: list[tuple[str, Text | str]] = [
        ("reward", f"{parts}{counts}" + ("" if lesson.ended else "; the answer was cut")),
    ]
    if len(lesson.group) > 1:
        rows.append(("beside", f"{len(lesson.group)} answers to the prompt: {others}"))
    if lesson.value is not None:
        returned = "" if lesson.returns is None else f", and turned out as {round(lesson.returns, 3) + 0.0:.3f}"
        rows.append(("value", f"{lesson.value:.3f} was expected before the token{returned}"))
    a, r = lesson.advantage, lesson.ratio
    rows.append(("advantage", f"A = {a:+.3f}: {'better' if a > 0 else 'worse'} than expected" if a else "A = 0"))
    rows.append(
        ("probability", f"{percent(exp(lesson.old_logp))} when it was drawn, {percent(exp(lesson.new_logp))} now")
    )
    if lesson.reference_logp is not None:
        rows.append(("reference", f"{percent(exp(lesson.reference_logp))} in the model that it is held near to"))
    rows.append(("ratio", f"r = {r:.3f}; the bounds are {lesson.low:g} and {lesson.high:g}"))
    rows.append(("gain", f"min(r·A, clip(r)·A) = min({r * a:+.3f}, {lesson.bounded * a:+.3f}) = {lesson.gain:+.3f}"))
    return rows


def verdict(lesson: Lesson) -> str:
    """What that means for the next update on the same answers."""
    a = lesson.advantage
    if not a:
        return "without an advantage the token teaches nothing"
    way = "more" if a > 0 else "less"
    if lesson.clipped:
        return f"the ratio is past its bound: the token has no gradient, and no update makes it {way} probable any more"
    moved = lesson.new_logp - lesson.old_logp
    if moved * a > 0:
        return f"the token became {way} probable; another update on these answers would go on with it"
    return (
        f"the token should become {way} probable, and has not: the gradients of other tokens move the same weights; "
        "another update on these answers would push it again"
    )
