"""`llmspec sample`: lets a trained model write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.api import decoding_settings
from llmspec.cli.arguments import Json, OfPhase, Plain, Quantize, RunPath, Seed, Sets, place
from llmspec.cli.opening import opened, tell_unknown
from llmspec.core.problems import LlmspecError

EXAMPLES = (
    "Examples:  `llmspec sample --prompt 'What is a violin?'`  ·  "
    "`llmspec sample runs/quickstart --prompt 'ROMEO' --n 4 --set decoding.temperature=0.5`  ·  "
    "`llmspec sample --prompts questions.txt --batch 32 --json > answers.jsonl`  ·  "
    "`llmspec sample runs/bert-tiny --prompt 'A violin is a [MASK] instrument.'`  ·  "
    "`llmspec sample runs/sentiment --classify --prompts reviews.txt --json`"
)


def sample(
    run: RunPath = None,
    prompt: Annotated[
        str, typer.Option(help="Text to answer (chat models) or to continue; - reads standard input.")
    ] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="Answer every line of a file: text, or in a .jsonl file objects with `prompt`, `messages` or, for "
            "tags, `tokens`; - reads standard input.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="With --prompts: answers drawn at once, at most; 16 if memory holds them."),
    ] = None,
    system: Annotated[str, typer.Option(help="System message for a chat model.")] = "",
    n: Annotated[int, typer.Option(min=1, max=64, help="Number of answers.")] = 1,
    seed: Seed = None,
    plain: Plain = False,
    phase: OfPhase = None,
    quantize: Quantize = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Candidates for each [MASK] of the prompt (5), or labels of a text (all)."),
    ] = None,
    classify: Annotated[
        bool,
        typer.Option("--classify", help="Say which labels the prompt, or each of --prompts, or their words, have."),
    ] = False,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Generate text with a trained model."""
    from llmspec.cli import filling
    from llmspec.cli.classify import told
    from llmspec.cli.forms import prompt_of, refuse_answers

    unread = {"system": system, "n": n > 1, "seed": seed is not None, "plain": plain, "set": set_}
    if prompts is not None:
        return of_file(run, prompts, system, n, seed, plain, phase, quantize, top, classify, set_, json_, batch)
    needs_prompts(batch)
    prompt = prompt_of(prompt)
    model = opened(run, phase, quantize)
    if classify:
        return told(model, [prompt], top, json_)
    refuse_answers(model, unread, top)
    if model.tells_labels or model.tells_numbers or model.tags_words:
        return told(model, [prompt], top, json_)
    if model.fills:
        return filling.masks_filled(model, prompt, top, json_)
    if not system and (plain or not model.chat) and model.fills_spans(prompt):
        return filling.spans_filled(model, prompt, n, seed, decoding_settings(model, set_), json_)
    return text_drawn(model, prompt, system, n, seed, plain, decoding_settings(model, set_), json_)


def text_drawn(
    model: Any, prompt: str, system: str, n: int, seed: int | None, plain: bool, decoding: Any, json_: bool
) -> Any:
    """Answers to a prompt: printed as they are drawn, or as JSON-able data."""
    from llmspec.cli.forms import turns_for
    from llmspec.render import samples

    _ = model.drawing  # raises where it gives something else, before anything is asked of the prompt
    chat = model.chat and not plain
    turns = turns_for(model, chat, prompt, system)
    tell_unknown(model, prompt, system)
    if json_:
        answers = model.generate(turns, n=n, seed=seed, chat=chat, decoding=decoding)
        return samples.as_data(model, prompt, answers)
    samples.show(model, prompt, model.stream(turns, n=n, seed=seed, chat=chat, decoding=decoding), n, chat, speed_of)
    return None


def speed_of(model: Any, tokens: int, seconds: float) -> str:
    """Keeps how fast `tokens` of one text were drawn, for `explain`, and says what share of the memory's rate that is,
    where it is known."""
    from llmspec.forecast.decoding import remember_speed, speed

    plan = model.plan
    remember_speed(plan.model, plan.device, model.types, tokens, seconds)
    found = speed(plan.model, plan.device, model.types)
    share = found.share(tokens / seconds) if found else None
    return "" if share is None else f" ({share:.0%} of the memory's rate)"


def of_file(
    run: Path | None,
    prompts: Path,
    system: str,
    n: int,
    seed: int | None,
    plain: bool,
    phase: str | None,
    quantize: str | None,
    top: int | None,
    classify: bool,
    set_: list[str] | None,
    json_: bool,
    batch: int | None,
) -> Any:
    """Every prompt of a file: answered, filled in, or with its labels."""
    from llmspec.cli import filling
    from llmspec.cli.classify import texts_of, told
    from llmspec.cli.forms import refuse_answers
    from llmspec.cli.prompts import answered, prompts_in

    given = prompts_in(prompts)  # before the model is opened, which takes longer
    model = opened(run, phase, quantize)
    unread = {"system": system, "n": n > 1, "seed": seed is not None, "plain": plain, "set": set_, "batch": batch}
    tells = model.tells_labels or model.tells_numbers or model.tags_words
    if not classify or tells:
        refuse_answers(model, unread, top)
    if classify or tells:
        return told(model, texts_of(given), top, json_)
    if model.fills:
        return filling.file_filled(model, given, top, json_)
    if not system and (plain or not model.chat) and any(model.fills_spans(one.text) for one in given):
        decoding = decoding_settings(model, set_)
        return filling.file_spans_filled(model, given, n, seed, decoding, json_, batch)
    return answered(model, given, system, n, seed, plain, decoding_settings(model, set_), json_, batch)


def needs_prompts(batch: int | None) -> None:
    """Raises LlmspecError for a `--batch` without a file of prompts."""
    if batch is not None:
        raise LlmspecError(
            "--batch does nothing without --prompts",
            hint="--prompts FILE answers every line of a file; --n draws several answers to one prompt, all at once",
            consequence="it would have been ignored",
        )
