"""What reading a source found, as the plan has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmspec.data.unknown import share

if TYPE_CHECKING:
    from llmspec.compiler.plan import SourcePlan


def measured(found: SourcePlan, about: Mapping[str, Any], form: str) -> SourcePlan:
    """A source with the counts of what was noted of it; `form` is what its records were recognised as."""
    sides = {"train": "", "validation": "validation_"}
    counts = {f"{side}_{of}": about[side][of] for side in sides for of in ("tokens", "characters")}
    unknown = {f"{before}unknown": share(about[side]["unknown"]) for side, before in sides.items()}
    noted = {name: about[name] for name in ("documents", "contaminated", "duplicates")}
    return found.model_copy(update={**noted, **counts, **unknown, "format": form})
