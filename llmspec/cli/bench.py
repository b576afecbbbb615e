"""`llmspec bench`: measures this machine, and a spec's training and decoding on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.api import compiled, holds_model, model_folder
from llmspec.cli.arguments import Json, Sets, place

EXAMPLES = (
    "Examples:  `llmspec bench`  ·  "
    "`llmspec bench my.yaml --against torch --against transformers`  ·  "
    "`llmspec bench model.gguf --against llama.cpp`  ·  "
    "`llmspec bench --only machine`"
)


def bench(
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC", parser=place, help="A spec, a run or another model's file or folder; quickstart by default."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="torch or torch.compile (training), transformers (prefill, decode), llama.cpp (GGUF files).",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="WORK", help="machine, train, prefill, decode or batch.")
    ] = None,
    phase: Annotated[str | None, typer.Option(help="The phase whose step is measured; the first by default.")] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="Rounds in which all sides are measured, one after another.")
    ] = 3,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps timed in a round; by default as many as take a few seconds.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt that is read.")] = 128,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Measure this machine, and how fast it trains and decodes a spec; on request next to other libraries."""
    from llmspec.bench.run import bench as measure
    from llmspec.render.report_bench import progress, show

    model = str(spec) if spec is not None and holds_model(spec) else None
    plan = model_folder(spec).plan() if model else compiled(spec or Path("quickstart"), set_)[1]
    with progress() as say:
        report = measure(
            plan,
            only=only or (),
            against=against or (),
            phase=phase,
            rounds=rounds,
            steps=steps,
            prompt=prompt_tokens,
            model=model,
            progress=say,
        )
    if json_:
        return report.model_dump(mode="json")
    show(report)
