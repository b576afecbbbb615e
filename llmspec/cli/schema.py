"""`llmspec schema`: the JSON Schema of specs, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmspec.cli.arguments import no_run, place
from llmspec.core.problems import LlmspecError
from llmspec.core.visible import path_word

EXAMPLES = (
    "Example:  `llmspec schema -o specs/schema.json`, and in a spec's first line "
    "`# yaml-language-server: $schema=schema.json`"
)


def schema(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", parser=place, help="Write it to this file.")
    ] = None,
) -> None:
    """Print the JSON Schema of specs, with which editors complete, explain and check keys."""
    from llmspec.runs.files import write_text
    from llmspec.spec.json_schema import as_text

    if out:
        if out.is_dir():
            raise LlmspecError(
                f"the schema cannot be written: `{out}` is a folder",
                hint=f"-o {path_word(out / 'schema.json')} names a file in it",
            )
        with no_run():
            write_text(out, as_text())
    else:
        from llmspec.render.terminal import out as standard_output

        standard_output().write(as_text())
