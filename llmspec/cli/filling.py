"""`llmspec sample` with a model that fills places of texts: masked tokens, and spans that are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmspec.cli.opening import tell_unknown
from llmspec.core.problems import LlmspecError, Problem
from llmspec.decoding.prompt_file import FilePrompt


def masks_filled(model: Any, prompt: str, top: int | None, as_json: bool) -> Any:
    """The `[MASK]`s of a prompt, filled: printed, or as JSON-able data."""
    from llmspec.render import filled

    tell_unknown(model, prompt.replace("[MASK]", ""))
    found = model.fill(prompt, **({} if top is None else {"top": top}))
    return filled.as_data(model, prompt, found) if as_json else filled.show(model, found)


def spans_filled(model: Any, prompt: str, n: int, seed: int | None, decoding: Any, as_json: bool) -> Any:
    """What is said of the places of a prompt where something is left out: printed, or as JSON-able data."""
    from llmspec.decoding.spans import MARKS
    from llmspec.render import filled

    tell_unknown(model, MARKS.sub("", prompt))
    found = model.fill_spans(prompt, n=n, seed=seed, decoding=decoding)
    return filled.spans_as_data(model, prompt, found) if as_json else filled.show_spans(model, found)


def file_filled(model: Any, prompts: Sequence[FilePrompt], top: int | None, as_json: bool) -> Any:
    """The `[MASK]`s of every prompt of a file, filled: printed, or as JSON documents. Raises LlmspecError before
    anything is filled, naming every line that cannot be."""
    from llmspec.decoding.filling import check_length
    from llmspec.render import filled

    refuse(prompts, lambda text: check_length(model.masked(text), model.plan.model))
    most = {} if top is None else {"top": top}
    found = ((one, model.fill(one.text, **most)) for one in prompts)
    if as_json:
        return ({"line": one.line, **filled.as_data(model, one.text or "", made)} for one, made in found)
    filled.show_lines(model, (made for _, made in found))
    return None


def file_spans_filled(
    model: Any, prompts: Sequence[FilePrompt], n: int, seed: int | None, decoding: Any, as_json: bool, rows: int | None
) -> Any:
    """What is said of the places of every prompt of a file where something is left out: printed, or as JSON documents.
    Raises LlmspecError before anything is said, naming every line that has no such place."""
    from llmspec.decoding.batch import ROWS
    from llmspec.decoding.spans import span_text, told
    from llmspec.render import filled

    refuse(prompts, lambda text: span_text(model.codec, text))
    texts = [one.text or "" for one in prompts]
    how = {"n": n, "seed": seed, "chat": False, "decoding": decoding, "rows": ROWS if rows is None else rows}

    def found() -> Iterator[tuple[FilePrompt, list[Any]]]:
        for one, answers in zip(prompts, model.generate_batch(texts, **how), strict=True):
            given = span_text(model.codec, one.text or "")
            yield one, [told(model.codec, given, answer) for answer in answers]

    if as_json:
        return ({"line": one.line, **filled.spans_as_data(model, one.text or "", made)} for one, made in found())
    filled.show_span_lines(model, (one for _, made in found() for one in made))
    return None


def refuse(prompts: Sequence[FilePrompt], look: Callable[[str], object]) -> None:
    """Raises LlmspecError with what `look` finds wrong of each prompt, at its line, dialogues included."""
    problems = list[Problem]()
    for one in prompts:
        if one.text is None:
            message, hint = "a dialogue has no places to fill: only texts have", '{"prompt": "…"} in its place'
            problems.append(Problem(message, hint=hint, mark=one.mark))
            continue
        try:
            look(one.text)
        except LlmspecError as error:
            problems += [Problem(p.message, (), p.hint, p.consequence, mark=one.mark) for p in error.problems]
    if problems:
        raise LlmspecError(problems)
