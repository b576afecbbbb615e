"""`llmspec gc`: shows what no spec needs any more, and frees it where that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmspec.api import RUNS
from llmspec.cli.arguments import Json, place
from llmspec.core.problems import LlmspecError

EXAMPLES = "Examples:  `llmspec gc`  ·  `llmspec gc --yes`  ·  `llmspec gc --caches --older-than 30 --yes`"


def gc(
    runs: Annotated[
        Path | None, typer.Argument(metavar="RUNS", parser=place, help="A run, or a folder of runs; runs/ if omitted.")
    ] = None,
    specs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=place,
            help="Where the specs lie whose phases are needed, also one folder below; here if omitted.",
        ),
    ] = None,
    caches: Annotated[
        bool, typer.Option("--caches", help="Look at the cache folder (kernels, tokens, downloads) instead of runs.")
    ] = False,
    older_than: Annotated[
        int | None, typer.Option(min=0, metavar="DAYS", help="Of the caches, what was not used for so many days.")
    ] = None,
    most: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of the caches, the oldest until no more is left than this.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Free it; without, it is only shown.")] = False,
    json_: Json = False,
) -> Any:
    """Show what no spec needs: phases trained with earlier settings, half-written files, old caches. Free it with
    --yes."""
    from llmspec.api_runs import needed_by
    from llmspec.core.folders import cache_dir
    from llmspec.core.units import Bytes
    from llmspec.render.report_gc import show
    from llmspec.runs.garbage import Needed, freed, in_cache, in_runs

    needed = Needed()
    if caches:
        if older_than is None and most is None:
            raise LlmspecError("nothing says what of the caches can go", hint="--older-than 30, or --most '2 GB'")
        try:
            limit = Bytes.parse(most).amount if most is not None else None
        except ValueError as e:
            raise LlmspecError(f"--most: {e}", hint="such as --most '2 GB'") from None
        found = in_cache(cache_dir(), older_than, limit)
    else:
        needed = needed_by(specs or Path())
        found = in_runs(runs or RUNS, needed)
    gone, notices = freed(found) if yes else ([], [])
    notices = [*needed.notes, *([needed.everything] if needed.everything else []), *notices]
    if json_:
        rows = [{"path": str(g.path), "bytes": g.bytes, "why": g.why, "freed": g in gone} for g in found]
        return {"found": rows, "notices": notices}
    show(found, gone, notices, yes)
