"""Answers to be put in order, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmspec.core.visible import visible
from llmspec.render.report_shared import table
from llmspec.render.terminal import err, out


class Tally:
    """What the scores of many prompts came to."""

    def __init__(self) -> None:
        self.prompts = self.alike = 0
        self._all, self._best = list[float](), list[float]()
        self._parts: dict[str, list[float]] = {}
        self.left_out = list[tuple[int, str]]()
        """Lines of prompts whose answers the model that judges cannot read, and why."""

    def unread(self, line: int, why: str) -> None:
        """A prompt that is left out."""
        self.left_out.append((line, why))

    def add(self, scores: Sequence[float], parts: Mapping[str, Sequence[float]]) -> None:
        """The scores of the answers to one prompt."""
        self.prompts += 1
        self.alike += len(set(scores)) < 2
        self._all += scores
        self._best.append(max(scores))
        for name, found in parts.items():
            self._parts.setdefault(name, []).extend(found)

    def as_data(self, path: str, there: int) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "file": path,
            "prompts": self.prompts,
            "ranked_before": there,
            "answers": len(self._all),
            "without_difference": self.alike,
            "left_out": [line for line, _ in self.left_out],
            "mean": mean(self._all),
            "mean_of_best": mean(self._best),
            "parts": {name: mean(found) for name, found in self._parts.items()},
        }


def mean(values: Sequence[float]) -> float | None:
    """Their mean; None of nothing."""
    return sum(values) / len(values) if values else None


def prompts(count: int) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{count:,} prompt{'s' * (count != 1)}"


def show_scores(tally: Tally, path: str, there: int, advice: str) -> None:
    """What a reward made of the answers; `advice` is what makes them differ more."""
    found = tally.as_data(path, there)
    console = out()
    before = f", {there:,} before" if there else ""
    ranked, answers = prompts(tally.prompts), found["answers"]
    console.print(f"{ranked} ranked{before}: {answers:,} different answer{'s' * (answers != 1)} → {path}")
    if tally.left_out:
        (line, why), count = tally.left_out[0], len(tally.left_out)
        left = f"{prompts(count)} {'was' if count == 1 else 'were'} left out"
        err().print(f"note: {left}, such as that of line {line}: {visible(why)}")
    if not tally.prompts:
        return
    mean_of = "mean of different answers"
    made = table("reward", mean_of, right=(mean_of,))
    for name, value in found["parts"].items():
        made.add_row(f"  {visible(name)}", f"{value:.4f}")
    if len(found["parts"]) > 1:
        made.add_row("  all, weighted", f"{found['mean']:.4f}")
    made.add_row("  the best answer of each prompt", f"{found['mean_of_best']:.4f}")
    console.print(made)
    if tally.alike:
        err().print(
            f"note: of {tally.alike:,} of {prompts(tally.prompts)} all answers are worth the same: nothing is "
            f"preferred there ({advice})"
        )


def show_question(prompt: Any, texts: Sequence[str], far: str) -> None:
    """A prompt and its answers, numbered."""
    console = out()
    console.rule(f"line {prompt.line} · {far}", align="left", style="dim")
    console.write(prompt.asked + "\n", "bold")
    for number, text in enumerate(texts, 1):
        console.write(f"\n[{number}] ", "cyan")
        console.write(text.strip() + "\n")


def tell(text: str) -> None:
    """Something about what was typed."""
    err().print(text)


def show_person(file: Any, asked: int, skipped: int, alike: int, left: int) -> None:
    """What a person has done, and how often the same was said twice."""
    console = out()
    more = [f"{skipped:,} skipped"] * bool(skipped) + [f"{alike:,} with one answer alone"] * bool(alike)
    more += [f"{left:,} left: the same command goes on"] * bool(left)
    console.print(", ".join([f"{prompts(asked)} ranked, {len(file.records):,} in {file.path}", *more]))
    found = file.agreement
    if found.pairs:
        console.print(
            f"agreement with yourself: {found.same} of {found.pairs} pairs ({found.same / found.pairs:.0%}) in "
            f"{found.prompts} that came twice"
        )


def person_data(file: Any, asked: int, skipped: int, alike: int, left: int) -> dict[str, Any]:
    """JSON-able form."""
    return {
        "file": str(file.path),
        "prompts": asked,
        "records": len(file.records),
        "skipped": skipped,
        "with_one_answer": alike,
        "left": left,
        "agreement": file.agreement._asdict(),
    }
