"""Models that stand beside those that phases train, such as teachers: opened before the data are read, held against the
phase, known by a hash; and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llmspec.compiler.compile import planned_again
from llmspec.compiler.fit import over_limit
from llmspec.compiler.others import unfit
from llmspec.compiler.plan import OtherPlan, PhasePlan, Plan
from llmspec.core.problems import Problem, RunError, SpecError
from llmspec.data.fetch import Progress
from llmspec.formats import bases
from llmspec.formats.wheel_models import in_wheel
from llmspec.model.others import Weights
from llmspec.parts.others import Other, StartModel
from llmspec.parts.phases.base import REWARD_MODEL
from llmspec.parts.phases.rollouts import RolloutPhase
from llmspec.training import start_models
from llmspec.training.judging import judging_phase


def closed(plan: Plan, notice: Callable[[str], object] = lambda said: None) -> Plan:
    """The plan whose phases know the models that are there already: the hash of those that they start from, and hash,
    shape and cost of those that stand beside them.

    `notice` is told where a model to start from has settings that the spec's has not. Raises SpecError with everything
    that is wrong with any of them.
    """
    problems, phases = list[Problem](), list[PhasePlan]()
    try:
        plan = start_models.closed(plan, notice)
    except SpecError as error:
        problems += error.problems
    for planned in plan.phases:
        for other in planned.phase.others():
            if isinstance(other.model, StartModel):
                planned, wrong = opened(plan, planned, other, other.model)
                problems += [p.at("phases", planned.name, *other.path) for p in wrong]
        if isinstance(planned.phase, RolloutPhase):
            for path, model, takes in planned.phase.judge.models():
                planned, wrong = known(plan, planned, ("reward", *path), model, takes)
                problems += [p.at("phases", planned.name, "reward", *path) for p in wrong]
        phases.append(planned)
    if problems:
        raise SpecError(problems)
    if tuple(phases) == plan.phases:
        return plan
    plan = plan.model_copy(update={"phases": tuple(phases)})
    plan = plan.model_copy(update={"phases": planned_again(plan, None).planned})
    if found := over_limit(
        plan,
        {p.name: p.memory.peak for p in plan.phases if p.memory and (p.others or isinstance(p.phase, RolloutPhase))},
    ):
        raise SpecError(found)
    return plan


def download(plan: Plan, offline: bool, progress: Progress) -> None:
    """Downloads the wheels of the models that phases name, where they are not in the cache.

    Raises SpecError with every one that is not to be had, or, `offline`, not here.
    """
    problems = list[Problem]()
    for planned in plan.phases:
        for path, start in planned.phase.models():
            if start.model is None:
                try:
                    in_wheel(start, offline, progress)
                except RunError as error:
                    problems += [p.at("phases", planned.name, *path) for p in error.problems]
    if problems:
        raise SpecError(problems)


def opened(plan: Plan, planned: PhasePlan, other: Other, model: StartModel) -> tuple[PhasePlan, list[Problem]]:
    """(the phase that knows the model, what is wrong with it as seen from the key that names it)."""
    try:
        folder = bases.folder_of(plan, model)
        theirs = folder.plan()
        name, network = bases.model_in(folder, theirs)
        wrong = [Problem(p.message, (), p.hint, p.consequence) for p in unfit(other, network, planned.model)]
        if wrong := [*wrong, *start_models.tokenizer_problems(plan, theirs, model)]:
            return planned, wrong
        digest = bases.digest_of(bases.whole_weights(folder, theirs, name)[1])
    except RunError as error:
        return planned, [Problem(p.message, hint=p.hint, consequence=p.consequence) for p in error.problems]
    if wrong := list(start_models.digest_problems(model, digest)):
        return planned, wrong
    phase = with_value(planned.phase, other.path, model.model_copy(update={"digest": digest}))
    others = {**planned.others, other.role: OtherPlan(model=network, once=other.once)}
    return planned.model_copy(update={"phase": phase, "others": others}), []


def known(
    plan: Plan, planned: PhasePlan, path: tuple[Any, ...], model: StartModel, takes: tuple[str, ...]
) -> tuple[PhasePlan, list[Problem]]:
    """(the phase that knows the hash of a model that its reward asks, named by the key at `path`, which is to be one of
    the sorts `takes`; what is wrong with it as seen from that key)."""
    try:
        folder = bases.folder_of(plan, model)
        theirs = folder.plan()
        name = judging_phase(theirs) if REWARD_MODEL in takes else None  # else the one that it is opened with
        name, weights, _ = bases.whole_weights(folder, theirs, name)
        network = next((p.model for p in theirs.phases if p.name == name), theirs.model)
        digest = bases.digest_of(weights)
    except RunError as error:
        return planned, [Problem(p.message, hint=p.hint, consequence=p.consequence) for p in error.problems]
    if wrong := list(start_models.digest_problems(model, digest)):
        return planned, wrong
    said = {"digest": digest, "bytes": start_models.weights_held(plan, network, weights)}
    phase = with_value(planned.phase, path, model.model_copy(update=said))
    return planned.model_copy(update={"phase": phase}), []


def with_value(part: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A part with another value of a key, however deep."""
    name, *below = path
    if isinstance(part, Mapping):
        return {**part, name: with_value(part[name], tuple(below), value)}
    return part.model_copy(update={name: with_value(getattr(part, name), tuple(below), value) if below else value})


def weights(plan: Plan, planned: PhasePlan, made: Mapping[str, Callable[[], Mapping[str, Any]]]) -> Weights:
    """Of each model beside a phase, by its role, what gives its weights; `made` are those of the phases before it."""
    return {
        other.role: partial(bases.weights_of, plan, other.model)
        if isinstance(other.model, StartModel)
        else made[other.model]
        for other in planned.phase.others()
    }
