"""`llmspec import`: reads a model of another library into a folder of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.cli.arguments import Json, no_run, place
from llmspec.core.problems import LlmspecError

EXAMPLES = (
    "Examples:  `llmspec import ~/models/SmolLM2-135M --out models/smol`  ·  "
    "`llmspec sample models/smol --prompt 'A comet is'`  ·  `llmspec explain models/smol/spec.yaml`"
)


def import_model(
    path: Annotated[Path, typer.Argument(metavar="PATH", parser=place, help="A Hugging Face folder, or a GGUF file.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", parser=place, help="Folder to write, absent yet.")
    ] = None,
    json_: Json = False,
) -> Any:
    """Import a model of transformers or llama.cpp: its weights, its tokenizer, and the spec that describes it."""
    from llmspec.exchange.importing import import_folder
    from llmspec.render.report_exchange import show_imported
    from llmspec.render.waiting import waiting

    if out is None:
        raise LlmspecError("nothing says where to write", "--out DIR names a new folder")
    with no_run(), waiting("importing", lines=True) as say:
        found = import_folder(path, out, lambda what, done, of: say(f"{what}, {done / of:.0%}" if of else what))
    if json_:
        return found.model_dump(mode="json")
    show_imported(found)
