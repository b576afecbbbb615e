"""The command line, put together: a file for each verb, arguments -> one call -> render."""

from __future__ import annotations

from copy import copy
from typing import Annotated

import typer
from typer.models import CommandInfo

from llmspec.cli import bench, chat, check, embed, explain, export, gc, importing, merge, new, rank, run, sample, schema
from llmspec.cli.failures import STATUSES
from llmspec.cli.verb import Verb, Verbs

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=STATUSES,
    help="One YAML file holds the whole life of a language model: architecture, tokenizer, data, training, "
    "decoding.\n\nStart with `llmspec run quickstart`, then `llmspec sample` and `llmspec explain`.",
)


def version(asked: bool) -> None:
    """Prints the version and ends."""
    if asked:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        from llmspec.render.terminal import out

        try:
            number = installed("llmspec")
        except PackageNotFoundError:  # a checkout that is not installed
            number = "(not installed)"
        out().print(f"llmspec {number}")
        raise typer.Exit()


NAMES = {"import_model": "import"}
"""Verbs whose name is a word of Python."""


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What holds for all verbs; its help is that of the command."""


for verb, examples in (
    (run.run, run.EXAMPLES),
    (sample.sample, sample.EXAMPLES),
    (chat.chat, chat.EXAMPLES),
    (rank.rank, rank.EXAMPLES),
    (embed.embed, embed.EXAMPLES),
    (explain.explain, explain.EXAMPLES),
    (check.check, check.EXAMPLES),
    (new.new, new.EXAMPLES),
    (importing.import_model, importing.EXAMPLES),
    (merge.merge, merge.EXAMPLES),
    (export.export, export.EXAMPLES),
    (schema.schema, schema.EXAMPLES),
    (bench.bench, bench.EXAMPLES),
    (gc.gc, gc.EXAMPLES),
):
    app.command(NAMES.get(verb.__name__), cls=Verb, epilog=examples)(verb)


def app_for(arguments: list[str]) -> typer.Typer:
    """The command line with the verb alone that `arguments` begin with, where they begin with one: typer looks at every
    option of every verb otherwise."""
    asked = [one for one in app.registered_commands if arguments and named(one) == arguments[0]]
    if not asked:
        return app
    found = copy(app)
    found.registered_commands = asked
    return found


def named(command: CommandInfo) -> str:
    """What a verb is called on the command line."""
    return command.name or (command.callback.__name__ if command.callback else "")
