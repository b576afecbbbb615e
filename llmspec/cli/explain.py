"""`llmspec explain`: what a spec will do, what a run has done, how a text was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.api import (
    Progress,
    decoding_settings,
    explained_file,
    explained_pair,
    explained_part,
    explained_spec,
    is_saved_model,
    is_spec,
    known,
    run_folder,
)
from llmspec.cli.arguments import Json, Seed, Sets, place
from llmspec.cli.opening import opened, tell_unknown
from llmspec.core.problems import KnownInPart

EXAMPLES = (
    "Examples:  `llmspec explain quickstart`  ·  `llmspec explain runs/quickstart`  ·  "
    "`llmspec explain runs/quickstart --prompt 'What is a comet?'`  ·  "
    "`llmspec explain quickstart --part model.attention`  ·  "
    "`llmspec explain runs/quickstart --tokens --against pretrain`  ·  "
    "`llmspec explain runs/quickstart --by similarity`  ·  "
    "`llmspec explain A.yaml B.yaml`"
)


Tokens = Annotated[
    bool, typer.Option("--tokens", help="Show which tokens of its answers a phase prefers more than --against does.")
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="REWARD",
        help="Count how often a phase answers better than --against, by a reward: a kind, its settings in YAML, a "
        ".yaml file with them, or a phase of the run that has a reward or makes a reward model.",
    ),
]
Against = Annotated[
    str | None, typer.Option(metavar="PHASE", help="The phase to compare with; by default the one it started from.")
]
Compared = Annotated[
    str | None, typer.Option(help="The phase that is compared; by default the last one that draws text.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=place, help="Prompts for --by; dialogues of the validation text if omitted."),
]


def explain(
    what: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC | RUN", parser=place, help="A spec, run or model; the newest run if omitted."),
    ] = None,
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC | RUN",
            parser=place,
            help="A second one to compare with: what differs, and what that changes.",
        ),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Explain one part of a spec in detail, such as model.attention.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Take memory from the scheduled graphs instead of formulas.")
    ] = False,
    time: Annotated[
        bool, typer.Option("--time", help="Measure this machine and estimate how long a spec takes.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="Show how each token of an answer was chosen.")] = None,
    seed: Seed = None,
    tokens: Tokens = False,
    by: By = None,
    against: Against = None,
    phase: Compared = None,
    prompts: Prompts = None,
    top: Annotated[int, typer.Option(min=1, max=20, help="Candidates shown for each token.")] = 5,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Explain what a spec will do, what a run has done, or how each token of an answer was chosen."""
    report: Any
    if tokens or by is not None:
        report = explained_models(what, phase, against, prompt, by, prompts, seed, set_)
    elif what is not None and other is not None:
        with reading() as progress:
            report = explained_pair(what, other, set_, progress)
    elif prompt is None and what is not None and not (part or exact) and (file := explained_file(what, time=time)):
        report = file
    elif prompt is None and what is not None and (part is not None or exact or time or describes(what)):
        with reading() as progress:
            found = known(what, set_, progress)
            report = explained_part(found, part, what, progress) if part is not None else None
        report = report or explained_spec(found, exact=exact, time=time)
    elif prompt is not None:
        report = explained_answer(what, prompt, seed, top, set_)
    else:
        from llmspec.explain.run import explain_run

        report = explain_run(run_folder(what))
    return told(report, json_)


def told(report: Any, json_: bool) -> Any:
    """Shows a report, or gives its data. Raises KnownInPart where what it is about is refused."""
    from llmspec.render.reports import show

    if not json_:
        show(report)
    if report.about == "file" and report.problems:
        raise KnownInPart(report.problems, report.as_data())
    return report.as_data() if json_ else None


def describes(what: Path) -> bool:
    """Whether a path says what a model is, and not what a run has done."""
    return is_spec(what) or is_saved_model(what)


def explained_models(
    what: Path | None, phase: str | None, against: str | None, prompt: str | None, by: str | None, prompts: Path | None,
    seed: int | None, sets: list[str] | None,
) -> Any:  # fmt: skip
    """The report of two models of a run: of the tokens that one prefers, or `by` a reward."""
    from llmspec.cli.comparing import explained_tokens, explained_wins

    if by is None:
        return explained_tokens(what, phase, against, prompt, seed, sets)
    with reading() as progress:
        return explained_wins(what, phase, against, by, prompts, seed, sets, progress)


@contextmanager
def reading() -> Iterator[Progress]:
    """Says that data are read, and how far that is, where it takes long."""
    from llmspec.render.headway import Headway
    from llmspec.render.waiting import waiting

    with waiting("reading the data", lines=True) as say:
        headway = Headway()
        yield lambda *found: say(headway.line(*found))


def explained_answer(what: Path | None, prompt: str, seed: int | None, top: int, sets: list[str] | None) -> Any:
    """The report of one answer by a run's model."""
    from llmspec.cli.forms import prompt_of
    from llmspec.explain.decoding import explain_prompt

    prompt = prompt_of(prompt)
    model = opened(what)
    tell_unknown(model, prompt)
    return explain_prompt(model, prompt, seed=seed, top=top, decoding=decoding_settings(model, sets))
