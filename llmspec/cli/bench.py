"""`llmspec bench`: measures this machine, and a spec's training and decoding on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.api import compiled
from llmspec.cli.arguments import Json, Sets, place

EXAMPLES = (
    "Examples:  `llmspec bench`  ·  "
    "`llmspec bench my.yaml --against torch --against transformers`  ·  "
    "`llmspec bench --only machine`"
)


def bench(
    spec: Annotated[
        Path | None, typer.Argument(metavar="SPEC", parser=place, help="A spec; quickstart by default.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER", help="Compare with torch (training) or transformers (prefill, decode)."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="WORK", help="machine, train, prefill or decode.")] = None,
    phase: Annotated[str | None, typer.Option(help="The phase whose step is measured; the first by default.")] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="Rounds in which all sides are measured, one after another.")
    ] = 3,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps timed in a round; by default as many as take a few seconds.")
    ] = None,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Measure this machine, and how fast it trains and decodes a spec; on request next to other libraries."""
    from llmspec.bench.run import bench as measure
    from llmspec.render.report_bench import progress, show

    _, plan = compiled(spec or Path("quickstart"), set_)
    with progress() as say:
        report = measure(
            plan, only=only or (), against=against or (), phase=phase, rounds=rounds, steps=steps, progress=say
        )
    if json_:
        return report.model_dump(mode="json")
    show(report)
