"""Which model of a folder is meant where no phase is named."""

from __future__ import annotations

from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.parts.phases.base import SPEAKING
from llmspec.runs.stored import StoredModel


def model_in(folder: StoredModel, theirs: Plan) -> tuple[str | None, ModelPlan]:
    """(phase, its model): the last one that draws text."""
    last = next((p for p in reversed(theirs.phases) if p.makes in SPEAKING), None)
    return (None, theirs.model) if last is None else (last.name, last.model)
