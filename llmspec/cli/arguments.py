"""Arguments that several verbs take, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from llmspec.core.problems import LlmspecError, Problem, WriteError


def place(text: str) -> Path:
    """A path as it is meant: `~` is the home folder, also in `--out=~/x`, where no shell expands it."""
    if not text.strip():
        raise typer.BadParameter("a path cannot be empty")
    if "\0" in text:
        raise typer.BadParameter("a path cannot hold a NUL")
    if "://" in text:
        raise typer.BadParameter(f"{text} is an address of the web: download it first, and give the file")
    return Path(os.path.expanduser(text))


SpecPath = Annotated[
    Path,
    typer.Argument(
        metavar="SPEC", parser=place, help="A spec: a file, or the name of a shipped one, such as quickstart."
    ),
]
RunPath = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        parser=place,
        help="A run, a saved model, a Hugging Face folder or a GGUF file; the newest run if omitted.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. phases.pretrain.optimizer.lr=3e-4."),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Keep float32 weights quantised in memory: q8_0, q4_0 or q4_k; f32 makes quantised ones float32.",
    ),
]
OfPhase = Annotated[
    str | None,
    typer.Option(help="Use the weights of this phase; by default the last, reward models aside."),
]
Seed = Annotated[int | None, typer.Option(help="The same seed and prompts give the same text.")]
Plain = Annotated[bool, typer.Option("--plain", help="Continue prompts as plain text, even with a chat model.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing; fail if a source is not cached.")]


@contextmanager
def no_run() -> Iterator[None]:
    """Where no run is meant: a file that cannot be written is told without what that means for a run."""
    try:
        yield
    except WriteError as e:
        raise LlmspecError([Problem(p.message) for p in e.problems]) from None
