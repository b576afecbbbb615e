"""A person, or a reward, at work on answers: what `llmspec rank` does once model and prompts are there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from llmspec.cli.answers import Answers, Said
from llmspec.core.problems import LlmspecError, Problem
from llmspec.decoding.choosing import TooLong
from llmspec.decoding.prompt_file import FilePrompt
from llmspec.decoding.ranking import RankedFile, is_of, record_of, scores_of, shown_order
from llmspec.parts.rewards.base import Answered, Reward, more_than_asked
from llmspec.render import ranked
from llmspec.render.waiting import waiting

AHEAD = 4
"""Prompts whose answers are drawn before a person is asked for the first of them."""
APART = 5
"""Other prompts between the two times that a person is asked for one."""


class Ranking:
    """The prompts of a file that are not ranked yet, and what answers them."""

    def __init__(self, answers: Answers, prompts: Sequence[FilePrompt], file: RankedFile) -> None:
        self._answers, self._file, self._given = answers, file, list(prompts)
        self._prompts = [prompt for prompt in prompts if not file.holds(prompt)]
        self.there = len(prompts) - len(self._prompts)
        """Prompts that were ranked before."""

    # -- a reward ------------------------------------------------------------------------------------------------
    def by_reward(self, reward: Reward) -> dict[str, Any]:
        """Scores all answers; what came of it is shown and returned."""
        from llmspec.training.judging import opener
        from llmspec.training.rollouts import Refused, judged

        open_ = opener()
        self._check(reward, open_)
        tally = ranked.Tally()
        with waiting("answering", lines=True) as say:
            for prompt, answers in self._answers.of(self._prompts, say):
                whole = more_than_asked(prompt.turns)
                said = [Answered(prompt.asked, one.text, one.ended, prompt.record, whole) for one in answers]
                try:
                    parts, scores = judged(reward, said, open_, ("--by",))
                except Refused as refused:
                    if not isinstance(refused.__cause__, TooLong):
                        raise
                    tally.unread(prompt.line, refused.problems[0].message)
                    continue
                tally.add(scores, parts)
                self._file.add(record_of(prompt, [a.text for a in answers], scores, reward.name))
        ranked.show_scores(tally, str(self._file.path), self.there, self._answers.advice)
        return tally.as_data(str(self._file.path), self.there)

    def _check(self, reward: Reward, open_: Any) -> None:
        """Raises LlmspecError naming every prompt whose record lacks what the reward reads, and models that do not
        fit."""
        problems = list(reward.unfit(open_))
        for prompt in self._prompts:
            if lacking := [f"`{name}`" for name in reward.fields() if prompt.record.get(name) is None]:
                said = f"the reward reads {', '.join(lacking)}, which this record has not"
                hint = 'write {"prompt": "…", "answer": "…"} in a .jsonl file'
                problems.append(Problem(said, hint=hint, mark=prompt.mark))
        if problems:
            raise LlmspecError([p if p.mark else replace(p, path=("--by", *p.path)) for p in problems])

    # -- a person ------------------------------------------------------------------------------------------------
    def by_person(self, repeats: float) -> dict[str, Any]:
        """Asks for the order of the answers to one prompt after another; returns what came of it."""
        asked = alike = skipped = 0
        queue, drawn, ended = list(self._prompts), list[tuple[FilePrompt, list[Any]]](), False
        waiting_again = [(-APART, record, prompt) for record, prompt in self._unrepeated(repeats)]
        while (queue or drawn or waiting_again) and not ended:
            if not drawn and queue:
                now, queue = queue[:AHEAD], queue[AHEAD:]
                with waiting("answering", lines=True) as say:
                    drawn = list(self._answers.of(now, say))
            answer: list[float] | str = ""
            if waiting_again and (asked - waiting_again[0][0] >= APART or not drawn):
                answer = self._again(*waiting_again[0][1:])
                if answer != "u":
                    waiting_again.pop(0)
            elif drawn:
                prompt, answers = drawn.pop(0)
                texts = [answer.text for answer in answers]
                if len(texts) < 2:
                    alike += 1
                    continue
                answer = self._ask(prompt, texts, f"{self.there + asked + 1} of {self.there + len(self._prompts)}")
                if answer == "u":
                    drawn.insert(0, (prompt, answers))
                elif answer == "s":
                    skipped += 1
                elif isinstance(answer, list):
                    record = record_of(prompt, texts, answer, "person")
                    self._file.add(record)
                    asked += 1
                    if self._comes_twice(prompt, repeats):
                        waiting_again.append((asked, record, prompt))
            ended = answer == "q"
            if answer == "u" and (taken := self._taken_back()) is not None:
                drawn.insert(0, taken)
                asked = max(0, asked - 1)
        left = len(self._prompts) - asked - skipped - alike
        ranked.show_person(self._file, asked, skipped, alike, left)
        return ranked.person_data(self._file, asked, skipped, alike, left)

    def _comes_twice(self, prompt: FilePrompt, repeats: float) -> bool:
        """Whether a prompt is among the share of those that are asked another time."""
        return shown_order(1000, self._answers.seed, prompt, True)[0] < 1000 * repeats

    def _unrepeated(self, repeats: float) -> Iterator[tuple[dict[str, Any], FilePrompt]]:
        """What was ranked at an earlier time that ended before it was asked once more."""
        for record in self._file.records:
            if record.get("by") == "person" and "scores_again" not in record:
                prompt = next((prompt for prompt in self._given if is_of(record, prompt)), None)
                if prompt is not None and self._comes_twice(prompt, repeats):
                    yield record, prompt

    def _taken_back(self) -> tuple[FilePrompt, list[Any]] | None:
        """Takes the last order back, also one of an earlier time: its prompt with its answers. None where there is
        none, or the file of prompts has not got its prompt, so that it could not be asked again."""
        if not self._file.records:
            return None
        last = self._file.records[-1]
        before = next((prompt for prompt in self._given if is_of(last, prompt)), None)
        if before is None:
            ranked.tell(f"the last order is of another prompt than line {last['line']} has now, and stays")
            return None
        self._file.undo()
        if before not in self._prompts:
            self._prompts.append(before)
            self.there -= 1
        return before, [Said(text) for text in last["answers"]]

    def _again(self, record: dict[str, Any], prompt: FilePrompt) -> list[float] | str:
        """Asks another time for what was ranked; what a person says to it."""
        if record not in self._file.records:  # it was taken back
            return ""
        found = self._ask(prompt, record["answers"], "once more", again=True)
        if isinstance(found, list):
            self._file.again(record, found)
        return found

    def _ask(self, prompt: FilePrompt, texts: Sequence[str], far: str, again: bool = False) -> list[float] | str:
        """The scores that a person gives the texts; or `s`, `u` or `q`."""
        order = shown_order(len(texts), self._answers.seed, prompt, again)
        ranked.show_question(prompt, [texts[i] for i in order], far)
        while True:
            line = _line("best first> ")
            if line is None or line.strip().lower() in ("q", "quit"):
                return "q"
            if line.strip().lower() in ("s", "u"):
                return line.strip().lower()
            try:
                given = scores_of(line, len(texts))
            except ValueError as error:
                ranked.tell(f"{error}; `s` skips, `u` takes the last order back, `q` ends")
                continue
            scores = [0.0] * len(texts)
            for place, i in enumerate(order):
                scores[i] = given[place]
            return scores


def _line(prompt: str) -> str | None:
    """A line that is typed, or stands on standard input; None at its end and for Ctrl-C, since all is saved."""
    from llmspec.render.terminal import ask, err

    try:
        return ask(prompt, edited=False) if sys.stdin.isatty() else (sys.stdin.readline() or None)
    except (EOFError, KeyboardInterrupt):
        err().write("\n")
        return None
