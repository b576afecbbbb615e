"""What phases hand on to one another: typed artifacts, and the weights that a phase starts with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmspec.compiler.plan import ModelPlan, PhasePlan
from llmspec.core.problems import Problem, RunError
from llmspec.model.weights import draw
from llmspec.runs.run import PhaseFolder

Weights = dict[str, Any]
"""Name -> float32 numpy array."""


@dataclass(frozen=True)
class Artifact:
    """What a phase has made."""

    phase: PhasePlan
    weights: Callable[[], Weights]
    """Its weights, read where they are not at hand. Raises RunError where they were damaged since."""

    @property
    def kind(self) -> str:
        """Its sort, which other phases may start from or not: a `policy` draws text."""
        return self.phase.makes

    @classmethod
    def trained(cls, phase: PhasePlan, weights: Weights) -> Artifact:
        """What was trained just now."""
        return cls(phase, partial(dict, weights))

    @classmethod
    def kept(cls, phase: PhasePlan, place: PhaseFolder) -> Artifact:
        """What an earlier run has trained to its end."""
        return cls(phase, partial(final_weights, place, phase.model))


def start_weights(model: ModelPlan, seed: int, parent: Artifact | None) -> Weights:
    """What a phase starts with: the weights of the artifact that it starts from; what that does not have, such as the
    tensors of a head that the phase adds, is drawn from the seed."""
    known = parent.weights() if parent else {}
    return {t.name: known[t.name] if t.name in known else draw(t, seed) for t in model.tensors}


def final_weights(place: PhaseFolder, model: ModelPlan) -> Weights:
    """The weights of a finished phase, by name. Raises RunError where they were damaged since."""
    saved, weights, notices, _ = place.weights({t.name: t.shape for t in model.tensors})
    if saved is None or notices:
        raise RunError([*map(Problem, notices), Problem(f"the weights of {place.folder.name} cannot be read any more")])
    return weights
