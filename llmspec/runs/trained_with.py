"""What a phase was trained with, kept beside its checkpoints, so that other settings can be held against it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from llmspec.compiler.budget import tokens_per_step
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import RunError
from llmspec.runs.files import read_table, write_json
from llmspec.runs.run import PhaseFolder

FILE = "settings.json"


class TrainedWith(BaseModel):
    """Everything that another spec is compared with before it goes on from here."""

    model_config = ConfigDict(extra="allow", strict=True)
    phase: dict[str, Any]
    """The phase's settings, as a plan dumps them."""
    model: dict[str, Any]
    """The `model:` of its spec, every default written out."""
    tokenizer: str
    """Hash of the trained tokenizer."""
    parent: str
    """Key of the phase that it starts from; '' where there is none."""
    data: str
    """Hash of the tokens that it reads."""
    steps: int
    """That were planned."""
    tokens: int
    """That a step reads, where all of its rows are full."""

    @classmethod
    def of(cls, plan: Plan, planned: PhasePlan, tokenizer: str, data: str) -> TrainedWith:
        """That of a phase of a complete plan."""
        parent = planned.phase.parent
        return cls(
            phase=planned.phase.model_dump(mode="json", by_alias=True),
            model=plan.of(planned.name).settings()["model"],
            tokenizer=tokenizer,
            parent=plan.phase(parent).key if parent else "",
            data=data,
            steps=planned.steps or 0,
            tokens=tokens_per_step(planned.model, planned.phase),
        )

    @classmethod
    def read(cls, place: PhaseFolder) -> TrainedWith | None:
        """What lies in a phase's folder; None where an older version trained it. Raises RunError where damaged."""
        found = read_table(place.folder / FILE)
        try:
            return cls.model_validate(found) if found else None
        except ValidationError as e:
            where = ".".join(map(str, e.errors()[0]["loc"]))[:80]
            raise RunError(f"{place.folder / FILE} is damaged: {where}: {e.errors()[0]['msg']}") from None

    def write(self, place: PhaseFolder) -> None:
        """Into a phase's folder. Raises RunError."""
        write_json(place.folder / FILE, self.model_dump(mode="json"))
