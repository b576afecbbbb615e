"""`llmspec embed`: texts as vectors, and how alike they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.cli.arguments import Json, OfPhase, Quantize, RunPath, no_run, place
from llmspec.cli.opening import opened
from llmspec.core.problems import LlmspecError

EXAMPLES = (
    "Examples:  `llmspec embed models/minilm --text 'A cat sleeps.' --text 'A dog barks.'`  ·  "
    "`llmspec embed models/minilm --texts sentences.txt -o vectors.npy`  ·  "
    "`llmspec embed runs/quickstart --pooling mean --texts - --json < sentences.txt`"
)
FILES = (".npy", ".jsonl")


def embed(
    run: RunPath = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=place,
            help="Every line of a file: text, or in a .jsonl file objects with `text`; - reads standard input.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            parser=place,
            help="Write the vectors: a row a text in a .npy file, or an object a line in a .jsonl file. "
            "Without it, a table says how alike the texts are.",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="What stands for a text: mean, cls or last; by default as the model's embedding head says."),
    ] = None,
    phase: OfPhase = None,
    quantize: Quantize = None,
    json_: Json = False,
) -> Any:
    """Turn texts into vectors, and say how alike they are."""
    from llmspec.decoding.text_file import read
    from llmspec.render import embeddings
    from llmspec.render.waiting import waiting

    if out is not None and out.suffix not in FILES:
        raise LlmspecError(f"`{out}` is named like no file of vectors", "name it .npy or .jsonl")
    if pooling not in (None, "mean", "cls", "last"):
        raise LlmspecError(f"no pooling is named `{pooling}`", "mean, cls or last")
    given = [*(text or ()), *(read(_raw(texts), str(texts)) if texts is not None else ())]
    if not given:
        raise LlmspecError("there are no texts", "--text 'A cat sleeps.' gives one, --texts FILE a line each")
    if out is None and not json_ and len(given) > embeddings.MOST:
        raise LlmspecError(
            f"a table of {len(given):,} texts cannot be read",
            f"-o vectors.npy writes the vectors; a table is for up to {embeddings.MOST} texts",
        )
    model = opened(run, phase, quantize)
    with waiting(f"embedding {len(given):,} texts", lines=True) as say:
        found = model.embed(given, pooling=pooling, progress=lambda n, of: say(f"embedding: {n:,} of {of:,} texts"))
    embeddings.tell_cut(found, len(given))
    if out is not None:
        with no_run():
            embeddings.write(out, given, found)
    if json_:
        return embeddings.as_data(model, given, found, None if out is None else str(out))
    embeddings.show(given, found, out)
    return None


def _raw(path: Path) -> bytes:
    from llmspec.core.regular import read_regular

    try:
        return sys.stdin.buffer.read(MOST) if str(path) == "-" else read_regular(path, MOST)
    except OSError as error:
        raise LlmspecError(f"the texts cannot be read: {path}: {error.strerror or error}") from None


MOST = 1 << 28
"""Bytes of a file of texts, at most."""
