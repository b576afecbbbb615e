"""`llmspec export`: writes a trained model for other programs, and reads it back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.cli.arguments import Json, OfPhase, RunPath, no_run, place
from llmspec.cli.opening import opened
from llmspec.core.problems import LlmspecError, one_of

EXAMPLES = (
    "Examples:  `llmspec export runs/quickstart --to hf --out exported`  ·  "
    "`llmspec export models/smol --to hf --out smol-hf --family llama --shard-size '500 MB'`  ·  "
    "`llmspec export runs/quickstart --to gguf --type q8_0 --out quickstart-gguf`"
)
FORMATS = ("hf", "gguf", "peft")


def export(
    run: RunPath = None,
    to: Annotated[
        str, typer.Option(help="Format: hf, for transformers; gguf, for llama.cpp and Ollama; peft, an adapter alone.")
    ] = "hf",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", parser=place, help="Folder to write, absent yet.")
    ] = None,
    family: Annotated[
        str, typer.Option(help="Write this family of models, such as llama; by default the first that fits.")
    ] = "",
    shard_size: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="Of hf: largest file of weights, such as '2 GB' (by default 4 GiB); a larger model gets several.",
        ),
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="Of gguf: type of the matrices, f32, f16, bf16, q8_0, q4_0 or q4_k; by default that which they have.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="Of gguf: text on which the type's cost is measured; by default the run's validation text. Four bits "
            "(q4_0, q4_k) of a model that has none need it.",
        ),
    ] = None,
    phase: OfPhase = None,
    json_: Json = False,
) -> Any:
    """Export a model for transformers or llama.cpp, then read it back and compare ids, logits, text and dialogues."""
    from llmspec.api_runs import exported
    from llmspec.render.report_exchange import show_exported
    from llmspec.render.waiting import waiting

    folder = _place(to, out)
    model = opened(run, phase, "f32")  # compared with what computes in float32
    with no_run(), waiting("exporting", lines=True) as say:
        found = exported(
            run,
            model,
            folder,
            family=family,
            shard=_bytes(shard_size),
            to=to,
            type=type_ or "",
            text=text,
            progress=lambda what, done, of: say(f"{what}, {done / of:.0%}" if of else what),
        )
    if json_:
        return found.model_dump(mode="json")
    show_exported(found)


def _place(to: str, out: Path | None) -> Path:
    """The folder to write. Raises LlmspecError for a format that there is not, and without a folder."""
    if to not in FORMATS:
        raise LlmspecError(f"no format is named `{to}`", one_of(to, FORMATS))
    if out is None:
        raise LlmspecError("nothing says where to write", "--out DIR names a new folder")
    return out


def _bytes(text: str | None) -> int | None:
    """A size in bytes. Raises LlmspecError."""
    from llmspec.core.units import Bytes

    try:
        return None if text is None else Bytes.parse(text).amount
    except ValueError as error:
        raise LlmspecError(f"--shard-size: {error}") from None
