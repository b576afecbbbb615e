"""Which checkpoint of a phase is what the phase leaves: the last one, or the best by validation where it keeps that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.problems import RunError
from llmspec.runs.checkpoint import Checkpoint, Damaged, attempt
from llmspec.runs.tensors import Shapes


class Best(NamedTuple):
    """A validation that was better than others."""

    step: int
    value: float
    metric: str
    source: str
    """'' for the mean over all."""

    def __str__(self) -> str:
        return f"{self.metric}{f' of {self.source}' if self.source else ''} {self.value:.4g}"


def best_of(course: Mapping[str, Any]) -> tuple[Best, ...]:
    """The best validations that a checkpoint knows of, the best first. Raises RunError where they are damaged."""
    types = {"step": int, "value": float, "metric": str, "source": str}
    found = course.get("best", [])
    sound = isinstance(found, list) and all(
        isinstance(b, dict) and b.keys() == types.keys() and all(isinstance(b[k], t) for k, t in types.items())
        for b in found
    )
    if not sound:
        raise RunError("what a checkpoint says of the best ones is damaged", hint="remove it")
    return tuple(Best(**b) for b in found)


def left_by(saved: Checkpoint) -> tuple[Checkpoint, Best | None]:
    """(the checkpoint whose weights a phase leaves that has come to `saved`, what it is the best by)."""
    best = next(iter(best_of(saved.cursor().get("course", {}))), None)
    if best is None or best.step == saved.step:
        return saved, best
    return Checkpoint(saved.folder.with_name(f"step_{best.step}"), best.step), best


def weights(phase: Path, key: str, expected: Shapes) -> tuple[Checkpoint | None, dict[str, Any], list[str], str]:
    """(checkpoint, its weights, notices about damaged ones, what it is where it is not the last) of what a phase's
    folder leaves. Raises RunError as `attempt`."""
    lost: list[str] = []

    def read(saved: Checkpoint) -> tuple[Checkpoint, dict[str, Any], str]:
        chosen, best = left_by(saved)
        if chosen != saved:
            try:
                chosen.belongs(key)
                said = f"these are the weights of step {chosen.step:,}, the best by {best}; the last is {saved.step:,}"
                return chosen, chosen.weights(expected), said
            except Damaged as e:
                lost.append(
                    f"the best checkpoint {chosen.folder} is damaged ({e}); {saved.folder.name} is used instead"
                )
        return saved, saved.weights(expected), ""

    found, notices = attempt(phase, key, read)
    if found is None:
        return None, {}, notices, ""
    return (*found[1][:2], [*notices, *lost], found[1][2])
