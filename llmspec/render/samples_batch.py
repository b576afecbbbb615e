"""Answers to many prompts, in the order of the prompts, and how far they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from llmspec.core.units import duration
from llmspec.render.headway import Headway
from llmspec.render.samples import answer_data, credit
from llmspec.render.terminal import err, out
from llmspec.render.waiting import waiting

Answers = Callable[[Callable[[Any], None]], Iterator[list[Any]]]
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
        """`answering 40%, 12 a second, 3s left`."""
        return self._headway.line("answering", self.answers, self.total)

    def summary(self) -> str:
        """What was done, at which speed."""
        seconds = time.monotonic() - self._began
        speed = f", {self.tokens / seconds:.0f} tokens/s" if seconds > 0 else ""
        return f"[{self.answers} of {self.total} answers, {self.tokens} tokens{speed}, {duration(seconds)}]"


def documents(prompts: list[Any], answers: Answers, n: int) -> Iterator[dict[str, Any]]:
    """A JSON-able document for each prompt, as soon as its answers are whole."""
    screen = bool(sys.__stdout__ and sys.__stdout__.isatty())
    with nullcontext(None) if screen else waiting("answering", lines=True) as say:
        for found in answers(Progress(n * len(prompts), say)):
            prompt = prompts[found[0].prompt]
            asked = {"prompt": prompt.text} if prompt.text is not None else {"messages": messages(prompt)}
            yield {"line": prompt.line, **asked, "answers": [answer_data(a) for a in found]}


def messages(prompt: Any) -> list[dict[str, str]]:
    """A prompt's turns as records have them."""
    return [{"role": role, "content": text} for role, text in prompt.turns]


def show(model: Any, prompts: list[Any], answers: Answers, n: int, chat: bool) -> None:
    """Prints each prompt and its answers, under a line that says where it stands in the file."""
    console, notes = out(), err(style="dim", soft_wrap=True)
    with nullcontext(None) if console.is_terminal else waiting("answering", lines=True) as say:
        progress = Progress(n * len(prompts), say)
        try:
            for found in answers(progress):
                prompt = prompts[found[0].prompt]
                for answer in found:
                    which = f", {answer.sample + 1} of {n}" if n > 1 else ""
                    far = f" · {progress.line()}" if console.is_terminal else ""
                    console.rule(f"line {prompt.line}{which}{far}", align="left", style="dim")
                    console.write(prompt.asked, "bold")
                    console.write(("\n" if chat else "") + answer.text + "\n")
        finally:
            notes.print(progress.summary())
    if line := credit(model):
        notes.print(line)
