"""`llmspec export`: writes a trained model as a folder of another library, and reads it back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.cli.arguments import Json, RunPath, no_run, place
from llmspec.cli.opening import opened
from llmspec.core.problems import LlmspecError

EXAMPLES = (
    "Examples:  `llmspec export runs/quickstart --to hf --out exported`  ·  "
    "`llmspec export models/smol --to hf --out smol-hf --family llama --shard-size '500 MB'`"
)
FORMATS = ("hf",)


def export(
    run: RunPath = None,
    to: Annotated[str, typer.Option(help="Format: hf, a folder that transformers reads.")] = "hf",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", parser=place, help="Folder to write, absent yet.")
    ] = None,
    family: Annotated[
        str, typer.Option(help="Write this family of models, such as llama; by default the first that fits.")
    ] = "",
    shard_size: Annotated[
        str, typer.Option(metavar="BYTES", help="Largest file of weights, such as '2 GB'; a larger model gets several.")
    ] = "4 GiB",
    phase: Annotated[
        str | None, typer.Option(help="Use the weights of this phase; by default the last one that has any.")
    ] = None,
    json_: Json = False,
) -> Any:
    """Export a model for transformers, then read it back and compare ids, logits, text and dialogues."""
    from llmspec.api import origin_of
    from llmspec.core.units import Bytes
    from llmspec.exchange.exporting import export_folder
    from llmspec.render.report_exchange import show_exported
    from llmspec.render.waiting import waiting

    if to not in FORMATS:
        raise LlmspecError(f"no format is named `{to}`", f"known are: {', '.join(FORMATS)}")
    if out is None:
        raise LlmspecError("nothing says where to write", "--out DIR names a new folder")
    try:
        largest = Bytes.parse(shard_size).amount
    except ValueError as error:
        raise LlmspecError(f"--shard-size: {error}") from None
    model = opened(run, phase, "f32" if to == "hf" else None)  # compared with what computes in float32
    with no_run(), waiting("exporting", lines=True) as say:
        found = export_folder(
            model,
            out,
            origin=origin_of(run),
            family=family,
            shard=largest,
            progress=lambda what, done, of: say(f"{what}, {done / of:.0%}" if of else what),
        )
    if json_:
        return found.model_dump(mode="json")
    show_exported(found)
