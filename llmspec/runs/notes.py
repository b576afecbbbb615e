"""What a run notes beside its rows, so that whoever reads it knows the types: phase.json and facts.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmspec.core.problems import RunError


class _Notes(BaseModel):
    """Keys may be added by other versions, and none is needed."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Promise(_Notes):
    """What a phase was expected to take. Unit: seconds."""

    steps: float | None = None
    validation: float | None = None
    samples: float | None = None
    parts: dict[str, float] | None = None
    """Those of the steps by what they go into, where steps have parts."""
    origin: str | None = None


class Facts(_Notes):
    """What a phase has taken so far: seconds and how often, by what they went into; bytes; joules."""

    seconds: dict[str, float] | None = None
    times: dict[str, int] | None = None
    held_bytes: int | None = None
    process_bytes: int | None = None
    joules: float | None = None


class LedgerNotes(BaseModel):
    """What was read of a source."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, int | None]
    source: str


class MetricNotes(_Notes):
    """A number of a validation, as llmspec.core.metrics.Metric dumps it."""

    name: str
    value: float
    unit: str = ""
    source: str = ""
    better: Literal["lower", "higher", ""] = ""


class Row(_Notes):
    """A row of metrics.jsonl, timing.jsonl or samples.jsonl."""

    step: int = Field(ge=0)
    loss: float | None = None
    lr: float | None = None
    norm: float | None = None
    tokens: int | None = None
    seconds: float | None = None
    parts: dict[str, float] | None = None
    """What the seconds went into, where a step has parts."""
    validation: list[MetricNotes] | None = None
    prompt: str | None = None
    text: str | None = None
    finish_reason: str | None = None


class EndNotes(_Notes):
    """Where a phase ended that did not use up its budget, and why."""

    step: int
    why: str


class PhaseNotes(_Notes):
    """phase.json."""

    key: str | None = None
    done: bool | None = None
    promise: Promise | None = None
    facts: Facts | None = None
    units: dict[str, str] | None = None
    """Of the numbers in rows of steps, by name."""
    ledger: list[LedgerNotes] | None = None
    ended: EndNotes | None = None
    diverged: int | None = None
    """The step whose numbers were not finite."""
    continued: dict[str, Any] | None = None
    """What it goes on from, as llmspec.compiler.continued.Continued has it."""
    copied: str | None = None
    """The run and the folder in it that it was copied from, where that trained it."""
    skipped: int | None = None
    """Steps whose update was not applied, since their loss was a spike."""
    best: str | None = None
    """Which checkpoint is what the phase leaves, where that is not the last one, in words."""


class AnswerNotes(_Notes):
    """What a model said to a prompt."""

    prompt: str
    text: str
    finish_reason: str


class StartNotes(_Notes):
    """What the model said that the phase started from, where no phase has made it."""

    name: str
    answers: list[AnswerNotes]


class AnswersNotes(_Notes):
    """answers.json: what a phase's model said to the prompts of the run when the phase had ended."""

    asked: str
    """Hash of the prompts, of how they were answered, and of the phase's key."""
    chat: bool
    """Whether they were answered as a user's turns, rather than continued as text."""
    answers: list[AnswerNotes]
    start: StartNotes | None = None


class MachineNotes(_Notes):
    """facts.json. Unit: FLOPs a second."""

    peak_flops: float | None = None


def validated(kind: type[BaseModel], found: dict[str, Any], path: Path) -> dict[str, Any]:
    """What was found, as it is. Raises RunError where a value is of another type than `kind` says."""
    try:
        kind.model_validate(found)
    except ValidationError as e:
        first = e.errors()[0]
        raise RunError(f"{path} is damaged: {'.'.join(map(str, first['loc']))[:80]}: {first['msg']}") from None
    return found
