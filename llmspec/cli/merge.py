"""`llmspec merge`: an adapter and its model become one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.cli.arguments import Json, RunPath, no_run, place
from llmspec.core.problems import LlmspecError

EXAMPLES = (
    "Examples:  `llmspec merge runs/adapt-smollm2 --out handbook`  ·  "
    "`llmspec merge runs/adapt-smollm2 --type q8_0 --out handbook-q8`  ·  "
    "`llmspec export handbook --to gguf --type f16 --out handbook-gguf`"
)


def merge(
    run: RunPath = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", parser=place, help="Folder to write, absent yet.")
    ] = None,
    type_: Annotated[
        str,
        typer.Option(
            "--type",
            help="Type of the merged matrices: f32, f16, bf16, q8_0, q4_0, q4_1 or q4_k; others stay as they are.",
        ),
    ] = "f32",
    phase: Annotated[
        str | None, typer.Option(help="Use the adapter of this phase; by default the last one that has any.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=place, help="Measure on this text; by default on the run's validation text."
        ),
    ] = None,
    json_: Json = False,
) -> Any:
    """Merge a run's adapter into the model that it was trained beside, once what is lost by that has been measured."""
    from llmspec.api import model_folder
    from llmspec.exchange.merging import merge as merged
    from llmspec.render.report_exchange import show_merged
    from llmspec.render.waiting import waiting

    if out is None:
        raise LlmspecError("nothing says where to write", "--out DIR names a new folder")
    with no_run(), waiting("merging", lines=True) as say:
        found = merged(model_folder(run).path, out, type_, phase, text, lambda what, done, of: say(what))
    if json_:
        return found.model_dump(mode="json")
    show_merged(found)
