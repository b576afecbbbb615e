"""`llmspec rank`: several answers to each prompt, put in order by a person or by a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.cli.arguments import Json, OfPhase, Plain, Quantize, RunPath, Seed, Sets, no_run, place
from llmspec.core.problems import LlmspecError

EXAMPLES = (
    "Examples:  `llmspec rank runs/quickstart --prompts questions.txt --out ranked.jsonl`  ·  "
    "`llmspec rank --prompts questions.jsonl --by similarity --n 8 --out ranked.jsonl`  ·  "
    "`llmspec rank --prompts q.txt --by '{kind: sum, of: {short: {kind: length, most: 30}, ends: {kind: ended}}}' "
    "--out ranked.jsonl`  ·  "
    "`llmspec rank --prompts mine.jsonl --answers chosen,rejected --by constitution.yaml --out judged.jsonl`"
)

AnswersOf = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Rank answers that stand in the records, instead of drawing some: the key that holds a list of texts, or "
        "several keys, such as chosen,rejected.",
    ),
]


def rank(
    run: RunPath = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="A prompt a line: text, or in a .jsonl file objects with `prompt` or `messages`; what stands beside "
            "it can be read by rewards.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", parser=place, help="The .jsonl file to write, or to go on with."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="REWARD",
            help="A reward instead of a person: the name of a kind, its settings in YAML, or a .yaml file with them.",
        ),
    ] = None,
    answers: AnswersOf = None,
    n: Annotated[int, typer.Option(min=2, max=64, help="Answers to each prompt.")] = 4,
    repeats: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the prompts that a person is asked twice.")
    ] = 0.1,
    seed: Seed = None,
    plain: Plain = False,
    phase: OfPhase = None,
    quantize: Quantize = None,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Put several answers to each prompt in order: records of what is preferred, for training.

    A person types the answers' numbers, the best first, such as `2 1 3`; `=` stands between those that are alike.
    `1:4 2:2.5 3:4` gives each a score of one's own instead, the higher the better.
    `s` skips a prompt, `u` takes the last order back, `q` ends; the same command goes on where the file ends.
    """
    from llmspec.cli.answers import Given
    from llmspec.cli.prompts import prompts_in
    from llmspec.cli.ranking import Ranking
    from llmspec.decoding.ranking import RankedFile

    if prompts is None or out is None:
        missing = "--prompts FILE" if prompts is None else "--out FILE"
        raise LlmspecError(f"{missing} is missing", "llmspec rank --prompts questions.txt --out ranked.jsonl")
    reward = None if by is None else reward_of(by)
    keys = [] if answers is None else keys_of(answers, run)
    given = prompts_in(prompts, also_read=(*keys, *(() if reward is None else reward.fields())))
    file = RankedFile(out)
    source = Given(given, keys, seed) if keys else drawn(run, given, n, seed, plain, phase, quantize, set_)
    ranking = Ranking(source, given, file)
    with no_run():
        found = ranking.by_person(repeats) if reward is None else ranking.by_reward(reward)
    return found if json_ else None


def drawn(run: Any, given: Any, n: int, seed: int | None, plain: bool, phase: Any, quantize: Any, set_: Any) -> Any:
    """The answers that a model draws. Raises LlmspecError."""
    from llmspec.api import decoding_settings
    from llmspec.cli.answers import Drawn
    from llmspec.cli.opening import opened

    model = opened(run, phase, quantize)
    return Drawn(model, given, n, seed, plain, decoding_settings(model, set_))


def keys_of(text: str, run: Path | None) -> list[str]:
    """The keys that `--answers` names. Raises LlmspecError where it names none, or a model is named, too."""
    if run is not None:
        raise LlmspecError(f"`{run}` and --answers both say where answers come from", "leave one out")
    if found := [key.strip() for key in text.split(",") if key.strip()]:
        return found
    raise LlmspecError("--answers names no key", "--answers answers, or --answers chosen,rejected")


def reward_of(text: str) -> Any:
    """The reward that `--by` describes. Raises LlmspecError."""
    from llmspec.parts.rewards import TABLE
    from llmspec.spec.lone import read_part

    return read_part(text, "--by", TABLE)
