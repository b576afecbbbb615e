"""`llmspec new`: writes a commented spec for somebody's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.cli.arguments import Json, no_run, place
from llmspec.core.problems import LlmspecError
from llmspec.core.visible import command, path_word

EXAMPLES = (
    "Examples:  `llmspec new notes --text ~/notes`  ·  "
    "`llmspec new helper --chat answers.jsonl`  ·  "
    "`llmspec new both --text docs --chat faq.csv --minutes 30`"
)


def new(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", parser=place, help="Folder to write the spec to; the spec is named after it."),
    ],
    text: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=place, help="A folder of text, or one file, to train on."),
    ] = None,
    chat: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=place, help="Dialogues to fine-tune on: .jsonl, .json, .csv or .tsv."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=10_000, help="How long training should take on this machine.")
    ] = 10.0,
    json_: Json = False,
) -> Any:
    """Write a commented spec for your own files, after looking at them; without files, the quickstart to change."""
    from llmspec.render.report_new import show
    from llmspec.render.waiting import waiting
    from llmspec.scaffold.new import create

    if folder.is_file():
        raise LlmspecError(f"`{folder}` is a file, but a folder is expected here", hint=command("new", "FOLDER"))
    if folder.suffix in (".yaml", ".yml") and not folder.exists():
        raise LlmspecError(
            f"`{folder}` is named like a file, but a folder is expected here",
            hint=f"{command('new', path_word(folder.with_suffix('')))} writes the spec into that folder",
        )
    if (folder / "plan.json").is_file():
        raise LlmspecError(
            f"`{folder}` is a run directory, and a spec belongs outside of it", hint=command("new", "FOLDER")
        )
    with no_run(), waiting("looking at the files") as say:
        made = create(
            folder,
            text,
            chat,
            minutes,
            lambda what, done, total: say(f"{what}, {100 * done / total:.0f}%" if total else what),
        )
    if json_:
        return made.model_dump(mode="json")
    show(made)
