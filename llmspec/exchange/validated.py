"""What the last validation of a run's phase said, for model cards."""

from __future__ import annotations

from llmspec.core.metrics import Metric
from llmspec.runs.run import RunFolder
from llmspec.runs.stored import StoredModel


def last_validation(folder: StoredModel, phase: str) -> tuple[Metric, ...]:
    """Its metrics; none of a model without a run, and of a phase that was not validated. Damaged ones are left out."""
    if not isinstance(folder, RunFolder):
        return ()
    rows = [row["validation"] for row in folder.phase(phase).metrics.read() if isinstance(row.get("validation"), list)]
    found = list[Metric]()
    for saved in rows[-1] if rows else ():
        try:
            found.append(Metric.load(saved))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return tuple(found)
