"""What phases hand on to one another: typed artifacts, and the weights that a phase starts with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmspec.compiler.plan import ModelPlan, PhasePlan
from llmspec.core.problems import Problem, RunError
from llmspec.core.quantised import as_float32
from llmspec.model.weights import draw
from llmspec.runs.run import PhaseFolder

Weights = dict[str, Any]
"""Name -> float32 numpy array; or Quantised, of a model that is adapted."""


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
    def trained(cls, phase: PhasePlan, weights: Weights, parent: Artifact | None = None) -> Artifact:
        """What was trained just now, from what `parent` is."""
        return cls(phase, partial(whole, phase.model, partial(dict, weights), parent))

    @classmethod
    def kept(cls, phase: PhasePlan, place: PhaseFolder, parent: Artifact | None = None) -> Artifact:
        """What an earlier run has trained to its end, from what `parent` is."""
        return cls(phase, partial(whole, phase.model, partial(final_weights, place, phase.model), parent))


def whole(model: ModelPlan, own: Callable[[], Weights], parent: Artifact | None) -> Weights:
    """All weights of a model, of which an artifact may hold its `own` alone."""
    adapts = model.adapter is not None and parent is not None
    return {**parent.weights(), **own()} if parent is not None and adapts else own()


def start_weights(model: ModelPlan, seed: int, parent: Artifact | None) -> Weights:
    """What a phase starts with: the weights of the artifact that it starts from; what that does not have, such as the
    tensors of a head that the phase adds, is drawn from the seed, or follows from the weights that it stands beside."""
    known = parent.weights() if parent else {}
    found = {t.name: known[t.name] if t.name in known else draw(t, seed) for t in model.tensors}
    return found if model.adapter is None else found | fitted(model, found, known)


def fitted(model: ModelPlan, found: Weights, known: Weights) -> Weights:
    """The tensors of an adapter that is added that start as the weights beside them say."""
    assert model.adapter is not None
    made = Weights()
    for name in found:
        if model.adapter.among(name, found):
            layer = name.removesuffix("weight")
            made |= {f"{layer}{own}": a for own, a in model.adapter.fitted(as_float32(found[name])).items()}
    return {name: array for name, array in made.items() if name not in known}


def final_weights(place: PhaseFolder, model: ModelPlan) -> Weights:
    """The weights that a finished phase has left, by name. Raises RunError where they were damaged since."""
    saved, weights, notices, _ = place.weights({t.name: t.shape for t in model.stored})
    if saved is None or notices:
        raise RunError([*map(Problem, notices), Problem(f"the weights of {place.folder.name} cannot be read any more")])
    return weights
