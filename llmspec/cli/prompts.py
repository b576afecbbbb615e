"""`llmspec sample --prompts`: every prompt of a file, answered side by side."""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmspec.core.problems import LlmspecError, Problem
from llmspec.decoding.prompt_file import FilePrompt, read

MOST = 1 << 28
"""Bytes of a file of prompts, at most."""


def prompts_in(path: Path, also_read: Collection[str] = ()) -> list[FilePrompt]:
    """The prompts of a file, or of standard input for `-`; `also_read` are keys of its records that are read beside
    the prompt. Raises LlmspecError naming every line that is wrong."""
    from llmspec.core.regular import read_regular
    from llmspec.render.terminal import err

    try:
        raw = sys.stdin.buffer.read(MOST) if str(path) == "-" else read_regular(path, MOST)
    except OSError as error:
        raise LlmspecError(f"the prompts cannot be read: {path}: {error.strerror or error}") from None
    prompts, unread = read(raw, str(path))
    if unread := unread - set(also_read):
        names = ", ".join(f"`{key}`" for key in sorted(unread)[:8])
        err().print(f"note: these keys of the records are not read: {names}")
    return prompts


def answered(
    model: Any,
    prompts: list[FilePrompt],
    system: str,
    n: int,
    seed: int | None,
    plain: bool,
    decoding: Any,
    as_json: bool,
    rows: int | None = None,
) -> Generator[dict[str, Any]] | None:
    """Prints the answers in the order of the file, each as soon as it is whole; or gives them as JSON documents. Up to
    `rows` are drawn at once.

    Raises LlmspecError before anything is drawn, naming every prompt that the model cannot answer.
    """
    from llmspec.cli.forms import SAMPLE_TEXT, refuse
    from llmspec.data.unknown import of_prompt
    from llmspec.decoding.batch import ROWS
    from llmspec.render.samples_batch import documents, show
    from llmspec.render.terminal import err

    chat = model.chat and not plain
    if system and not chat:
        refuse(SAMPLE_TEXT, ["system"])
    given = [turns_or_text(prompt, system) for prompt in prompts]
    if problems := [
        p for one, turns in zip(prompts, given, strict=True) for p in wrong(model, one, turns, chat, system)
    ]:
        raise LlmspecError(problems)
    note = lambda text: err().print(f"note: {text}")
    if said := of_prompt(model.codec, system + "".join(p.asked for p in prompts), model.plan.tokenizer.markers):
        note(f"the prompts: {said}")

    def answers(on_token: Any) -> Any:
        return model.generate_batch(
            given,
            n=n,
            seed=seed,
            chat=chat,
            decoding=decoding,
            on_token=on_token,
            notice=note,
            rows=rows or ROWS,
        )

    if as_json:
        return documents(prompts, answers, n)
    show(model, prompts, answers, n, chat)
    return None


def turns_or_text(prompt: FilePrompt, system: str) -> Any:
    """What the model is given: turns where there are some, or a system message is; else the text."""
    from llmspec.decoding.prompts import with_system

    return with_system(list(prompt.turns) if prompt.text is None else prompt.text, system)


def wrong(model: Any, prompt: FilePrompt, given: Any, chat: bool, system: str) -> Iterator[Problem]:
    """Why a model cannot answer a prompt."""
    from llmspec.decoding.generate import no_room

    if prompt.turns and not chat:
        yield Problem(
            "`messages` are for chat models, and here a text is continued",
            (),
            'write {"prompt": "…"}',
            mark=prompt.mark,
        )
    elif system and any(role == "system" for role, _ in prompt.turns):
        yield Problem("a system message is given here and in --system", (), "leave one out", mark=prompt.mark)
    elif chat and not prompt.asked.strip():
        yield Problem("the prompt is empty, but a chat model needs one to answer", mark=prompt.mark)
    else:
        try:
            held, tokens = model.drawing, model.tokens(given, chat)
            problem = no_room("the prompt", tokens, held.context, held.encoder_context)
        except LlmspecError as error:
            yield from (replace(p, mark=prompt.mark) for p in error.problems)
        else:
            yield from [replace(problem, mark=prompt.mark)] if problem else []
