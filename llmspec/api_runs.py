"""Use cases around runs: what one would do, and what is kept of those that were. Nothing here prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmspec.api import RUNS, Progress, compiled

if TYPE_CHECKING:
    from llmspec.explain.dry_run import DryRunReport


def planned_run(
    path: Path,
    out: Path | None,
    overrides: list[str] | None,
    only: tuple[str, ...] = (),
    start: str = "",
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> DryRunReport:
    """What `llmspec run` would do with a spec: its data are read, nothing is written into the run's folder.

    Raises SpecError, DataError, RunError, and LlmspecError for names that are no phase's."""
    from llmspec.compiler import complete
    from llmspec.data.prepare import prepare
    from llmspec.explain.dry_run import explain_dry_run
    from llmspec.runs.run import RunFolder
    from llmspec.training.selection import Selection, chosen
    from llmspec.training.start_models import closed

    reading, plan = compiled(path, overrides)
    folder, selection = RunFolder(out or RUNS / plan.name), Selection(only, start)
    chosen(plan, selection)
    folder.accept(plan)
    with reading.placing():
        plan = closed(plan)
        plan = complete(plan, prepare(plan, offline=offline, progress=progress).measured)
    return explain_dry_run(plan, folder, selection)
