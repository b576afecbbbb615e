"""Answers in the order in which a person, or a reward, prefers them; kept as records that a phase can read.

A record is a line of JSON: `prompt` (or `messages`), `answers` from the best to the worst with their `scores`, and,
where they differ, `chosen` and `rejected`: the first and the last of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core import strict_json
from llmspec.core.hashing import digest
from llmspec.core.problems import LlmspecError, Mark, Problem
from llmspec.core.regular import read_regular
from llmspec.decoding.prompt_file import FilePrompt
from llmspec.runs.files import write_text

MOST = 1 << 30
"""Bytes of a file of records, at most."""
_GROUP = re.compile(r"[\s>,]+")


class Agreement(NamedTuple):
    """How often pairs of answers were put in the same order twice."""

    same: int
    pairs: int
    prompts: int


def shown_order(n: int, seed: int, prompt: FilePrompt, again: bool = False) -> list[int]:
    """The order in which n answers are shown, so that none is preferred for its place: a function of these alone."""
    name = digest([seed, prompt.line, prompt.asked, again])
    return sorted(range(n), key=lambda i: digest([name, i]))


def scores_of(order: str, n: int) -> list[float]:
    """The score of each of n answers from an order such as `2 1=3`: numbers from 1 on, the best first, `=` between
    those that are alike. Those that are not named are alike and come last; the score counts the steps below. Or from
    scores of one's own such as `1:4 2:2.5`, the higher the better, of every answer.

    Raises ValueError for what is neither.
    """
    if ":" in order:
        return _own_scores(order, n)
    steps = [step.split("=") for step in _GROUP.split(re.sub(r"\s*=\s*", "=", order.strip())) if step]
    if any(not number.isdecimal() or not 1 <= int(number) <= n for step in steps for number in step):
        raise ValueError(f"an order is made of the numbers 1 to {n}, such as `2 1` or `2 1=3`")
    named = [int(number) - 1 for step in steps for number in step]
    if len(set(named)) < len(named):
        raise ValueError("an answer is named twice")
    rest = [i for i in range(n) if i not in named]
    groups = [[int(number) - 1 for number in step] for step in steps] + ([rest] if rest else [])
    if len(groups) < 2:
        raise ValueError("all answers are alike then: `s` skips a prompt")
    below = {answer: len(groups) - 1 - i for i, group in enumerate(groups) for answer in group}
    return [float(below[answer]) for answer in range(n)]


def _own_scores(said: str, n: int) -> list[float]:
    pairs = [piece.partition(":") for piece in _GROUP.split(re.sub(r"\s*:\s*", ":", said.strip())) if piece]
    try:
        given = [(int(number) - 1, float(score)) for number, _, score in pairs]
    except ValueError:
        given = []
    if sorted(number for number, _ in given) != list(range(n)) or not all(isfinite(score) for _, score in given):
        raise ValueError(f"scores are given to each of the answers 1 to {n} once, such as `1:4 2:2.5`")
    if len({score for _, score in given}) < 2:
        raise ValueError("all answers are alike then: `s` skips a prompt")
    return [score for _, score in sorted(given)]


def record_of(prompt: FilePrompt, answers: Sequence[str], scores: Sequence[float], by: str) -> dict[str, Any]:
    """The record of a prompt whose answers have these scores."""
    order = sorted(range(len(answers)), key=lambda i: -scores[i])
    asked: dict[str, Any] = {"prompt": prompt.text}
    if prompt.text is None:
        asked = {"messages": [{"role": role, "content": text} for role, text in prompt.turns]}
    ends = {"chosen": answers[order[0]], "rejected": answers[order[-1]]} if len(set(scores)) > 1 else {}
    return {
        "line": prompt.line,
        **asked,
        **ends,
        "answers": [answers[i] for i in order],
        "scores": [scores[i] for i in order],
        "by": by,
    }


def agreement(pairs: Iterable[tuple[Sequence[float], Sequence[float]]]) -> Agreement:
    """How often the scores that the same answers were given twice put two of them in the same order, of those pairs
    that are not alike in either."""
    same = total = prompts = 0
    for first, second in pairs:
        prompts += 1
        for i, j in combinations(range(len(first)), 2):
            a, b = first[i] - first[j], second[i] - second[j]
            if a and b:
                total, same = total + 1, same + ((a > 0) == (b > 0))
    return Agreement(same, total, prompts)


class RankedFile:
    """A file of records, which is whole after each change."""

    def __init__(self, path: Path) -> None:
        """Reads what is there. Raises LlmspecError where it cannot be read or is of something else."""
        self.path, self.records = path, list[dict[str, Any]]()
        if not path.exists():
            return
        try:
            raw = read_regular(path, MOST)
        except OSError as error:
            raise LlmspecError(f"{path} cannot be read: {error.strerror or error}") from None
        problems = list[Problem]()
        for number, line in enumerate(raw.decode("utf-8", "replace").split("\n"), 1):
            if not line:
                continue
            try:
                record = strict_json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, Mapping) or not {"line", "answers", "scores"} <= record.keys():
                said, mark = "this is no record of ranked answers", Mark(str(path), number, 1, line)
                problems.append(Problem(said, hint="name another file with --out", mark=mark))
                break
            self.records.append(dict(record))
        if problems:
            raise LlmspecError(problems)

    def holds(self, prompt: FilePrompt) -> bool:
        """Whether a prompt is ranked there."""
        return any(is_of(record, prompt) for record in self.records)

    def add(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self._write()

    def undo(self) -> dict[str, Any] | None:
        """Takes the last record away and returns it; None where there is none."""
        if not self.records:
            return None
        last = self.records.pop()
        self._write()
        return last

    def again(self, record: dict[str, Any], scores: Sequence[float]) -> None:
        """Notes what a record's answers were worth when they were seen another time."""
        record["scores_again"] = list(scores)
        self._write()

    @property
    def agreement(self) -> Agreement:
        """Of all records that were seen twice."""
        return agreement((r["scores"], r["scores_again"]) for r in self.records if "scores_again" in r)

    def _write(self) -> None:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.records)
        write_text(self.path, lines)


def is_of(record: Mapping[str, Any], prompt: FilePrompt) -> bool:
    """Whether a record's answers are those to a prompt, at its line."""
    asked = prompt.text if prompt.text is not None else [list(turn) for turn in prompt.turns]
    return bool(record["line"] == prompt.line and _asked(record) == asked)


def _asked(record: Mapping[str, Any]) -> Any:
    if "messages" not in record:
        return record.get("prompt")
    return [[message["role"], message["content"]] for message in record["messages"]]
