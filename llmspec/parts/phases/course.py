"""When a phase ends before its budget, and which of its checkpoints are kept and handed on."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from llmspec.parts.base import Frozen

LAST = 2
"""Checkpoints that are kept where nothing is said: should the newest be damaged, the one before it serves."""


class Judged(NamedTuple):
    """What says which of two validations is better."""

    metric: str
    source: str | None
    """The validation source; None: the mean over all of them."""


class EarlyStopping(Frozen):
    """Ends a phase once validation has stopped to improve; the best checkpoint is what the phase leaves."""

    in_float64: ClassVar[tuple[str, ...]] = ("min_delta",)
    metric: str = Field("loss", min_length=1)
    """The metric of validation that has to improve, such as `loss` or `accuracy`."""
    source: str | None = Field(None, min_length=1)
    """The source whose validation text counts; if omitted, the mean over all that the mixture validates with."""
    patience: int = Field(3, gt=0, le=1 << 20)
    """Validations without improvement after which the phase ends."""
    min_delta: float = Field(0.0, ge=0)
    """What counts as improvement: a change for the better by more than this, in the metric's unit."""


class StoppingByReward(EarlyStopping):
    """The same of a phase that draws answers, whose validation says what they are worth."""

    metric: str = Field("reward", min_length=1)
    """The metric of validation that has to improve: `reward` or `ended`."""


class Keep(Frozen):
    """Which checkpoints of a phase stay on disk. With `best`, the best of them is what the phase leaves: later phases,
    `sample` and `export` take its weights instead of the last ones."""

    last: int = Field(LAST, gt=0, le=1 << 20)
    """The newest checkpoints, as many as this."""
    best: int = Field(0, ge=0, le=1 << 20)
    """The best ones by validation, as many as this, beside the newest."""
    metric: str | None = Field(None, min_length=1)
    """The metric that says which is best; that of `early_stopping` if omitted, or else the loss, or the reward of a
    phase that draws answers."""
    source: str | None = Field(None, min_length=1)
    """The source whose validation text counts; if omitted, the mean over all that the mixture validates with."""


class OnSpike(Frozen):
    """What is done about a step whose loss is far above those of the steps before it: its update is not applied.

    The mean and the standard deviation are those of the last `window` steps that were applied; before there are as
    many, only a loss that is no number is a spike."""

    above: float = Field(6.0, gt=0)
    """Standard deviations above the mean from which on a loss is a spike."""
    action: Literal["skip", "stop"] = "skip"
    """`skip` goes on with the next step, and counts; after ten in a row the phase stops. `stop` writes a checkpoint of
    before the step and ends the run."""
    window: int = Field(50, gt=1, le=1 << 16)
    """Steps over which mean and standard deviation are taken."""
