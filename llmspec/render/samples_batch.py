"""Answers to many prompts, in the order of the prompts, and how far they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import Any

from llmspec.core.units import duration
from llmspec.decoding.generate import outlived
from llmspec.render.headway import AFTER, Headway
from llmspec.render.samples import answer_data, credit
from llmspec.render.terminal import err, out
from llmspec.render.waiting import waiting

Answers = Callable[[Callable[[Any], None]], Generator[list[Any]]]
"""Draws the answers to each prompt; is told who is to see each token."""


class Progress:
    """Counts tokens and answers as they come."""

    def __init__(self, total: int, say: Callable[[str], None] | None = None) -> None:
        self.total, self.tokens, self.answers = total, 0, 0
        self._headway, self._say, self._began = Headway(), say, time.monotonic()

    def __call__(self, event: Any) -> None:
        self.tokens += 1
        if event.finish_reason:
            self.answers += 1
            if self._say:
                self._say(self.line())

    def line(self) -> str:
        """`answering 40%, 12 a second, 3s left, 310 tokens/s`."""
        far, seconds = self._headway.line("answering", self.answers, self.total), time.monotonic() - self._began
        return f"{far}, {self.tokens / seconds:.0f} tokens/s" if seconds > AFTER else far

    def summary(self) -> str:
        """What was done, at which speed."""
        seconds = time.monotonic() - self._began
        speed = f", {self.tokens / seconds:.0f} tokens/s" if seconds > 0 else ""
        return f"[{self.answers} of {self.total} answers, {self.tokens} tokens{speed}, {duration(seconds)}]"


def documents(prompts: list[Any], answers: Answers, n: int) -> Generator[dict[str, Any]]:
    """A JSON-able document for each prompt, as soon as its answers are whole; after an interruption those that are."""
    screen = bool(sys.__stdout__ and sys.__stdout__.isatty())
    with nullcontext(None) if screen else waiting("answering", lines=True) as say:
        whole = answers(Progress(n * len(prompts), say))
        try:
            for found in whole:
                yield document(prompts[found[0].prompt], found)
        except KeyboardInterrupt as interruption:
            for found in outlived(whole, interruption):
                yield document(prompts[found[0].prompt], found)


def document(prompt: Any, found: list[Any]) -> dict[str, Any]:
    """JSON-able form of a prompt of a file and of its answers."""
    asked = {"prompt": prompt.text} if prompt.text is not None else {"messages": messages(prompt)}
    return {"line": prompt.line, **asked, "answers": [answer_data(a) for a in found]}


def messages(prompt: Any) -> list[dict[str, str]]:
    """A prompt's turns as records have them."""
    return [{"role": role, "content": text} for role, text in prompt.turns]


def show(model: Any, prompts: list[Any], answers: Answers, n: int, chat: bool) -> None:
    """Prints each prompt and its answers, under a line that says where it stands in the file."""
    screen, notes = out().is_terminal, err(style="dim", soft_wrap=True)

    def write(found: list[Any]) -> None:
        console = out()  # a new one, since an interruption may leave one with its output held back
        prompt = prompts[found[0].prompt]
        for answer in found:
            which = f", {answer.sample + 1} of {n}" if n > 1 else ""
            far = f" · {progress.line()}" if screen else ""
            console.rule(f"line {prompt.line}{which}{far}", align="left", style="dim")
            console.write(prompt.asked, "bold")
            console.write(("\n" if chat else "") + answer.text + "\n")

    with nullcontext(None) if screen else waiting("answering", lines=True) as say:
        progress = Progress(n * len(prompts), say)
        whole = answers(progress)
        try:
            for found in whole:
                write(found)
        except KeyboardInterrupt as interruption:
            for found in outlived(whole, interruption):
                write(found)
        finally:
            notes.print(progress.summary())
    if line := credit(model):
        notes.print(line)
