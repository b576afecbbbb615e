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
    "--out ranked.jsonl`"
)


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
    `s` skips a prompt, `u` takes the last order back, `q` ends; the same command goes on where the file ends.
    """
    from llmspec.api import decoding_settings
    from llmspec.cli.opening import opened
    from llmspec.cli.prompts import prompts_in
    from llmspec.cli.ranking import Ranking
    from llmspec.decoding.ranking import RankedFile

    if prompts is None or out is None:
        missing = "--prompts FILE" if prompts is None else "--out FILE"
        raise LlmspecError(f"{missing} is missing", "llmspec rank --prompts questions.txt --out ranked.jsonl")
    reward = None if by is None else reward_of(by)
    given = prompts_in(prompts, also_read=() if reward is None else reward.fields())
    file = RankedFile(out)
    model = opened(run, phase, quantize)
    ranking = Ranking(model, given, file, n, seed, plain, decoding_settings(model, set_))
    with no_run():
        found = ranking.by_person(repeats) if reward is None else ranking.by_reward(reward)
    return found if json_ else None


def reward_of(text: str) -> Any:
    """The reward that `--by` describes. Raises LlmspecError."""
    from llmspec.parts.rewards import TABLE
    from llmspec.spec.lone import read_part

    return read_part(text, "--by", TABLE)
