"""Learning rates that a spec leaves to the kinds of its phases, as decisions."""

from __future__ import annotations

from dataclasses import replace

from llmspec.compiler.draft import Draft
from llmspec.parts.base import Default


def decide_rates(draft: Draft) -> Draft:
    """What phases that change a model which writes already do to it is small by itself; that is told."""
    for name, phase in draft.sections.phases.items():
        if (rate := phase.open_lr) is None:
            continue
        why = f"what is usual with {phase.optimizer.kind} in phases of kind {phase.kind}"
        why += ", times ten for an adapter" if phase.adapter is not None else ""
        why += "; a model of some million weights may want far more"
        draft = replace(draft, decisions=draft.decided(f"phases.{name}.optimizer", {"lr": Default(rate, why)}))
    return draft
