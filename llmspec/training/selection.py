"""Which phases of a plan run when not all are asked for, and what is there of each already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import LlmspecError, Problem, RunError, nearest
from llmspec.runs import aside
from llmspec.runs.claim import checkpoint_bytes
from llmspec.runs.elsewhere import trained_elsewhere
from llmspec.runs.run import PhaseFolder, RunFolder


class Selection(NamedTuple):
    """Phases that were asked for; all of them where nothing was said."""

    only: tuple[str, ...] = ()
    """These alone."""
    start: str = ""
    """This one, and those that build on it."""
    reuse: bool = False
    """Whether what a run beside this one has trained with the same settings is taken from there."""

    def __bool__(self) -> bool:
        return bool(self.only or self.start)

    @property
    def said(self) -> str:
        """As it was asked for."""
        return f"--from {self.start}" if self.start else " ".join(f"--only {name}" for name in self.only)


ALL = Selection()


def chosen(plan: Plan, selection: Selection) -> tuple[str, ...]:
    """The phases to run, in their order. Raises LlmspecError for names that are no phase's."""
    names = [p.name for p in plan.phases]
    problems = []
    for name in (*selection.only, *([selection.start] if selection.start else [])):
        if name not in names:
            near = nearest(name, names)
            problems.append(
                Problem(
                    f"no phase is called `{name}`",
                    hint=f"did you mean `{near}`?" if near else f"there is {', '.join(names)}",
                    consequence="nothing would run",
                )
            )
    if problems:
        raise LlmspecError(problems)
    if not selection:
        return tuple(names)
    wanted = set(selection.only or (selection.start,))
    for phase in plan.phases if selection.start else ():
        wanted |= {phase.name} if wanted & set(phase.phase.needs) else set()
    return tuple(name for name in names if name in wanted)


def ancestors(plan: Plan, names: Sequence[str]) -> tuple[str, ...]:
    """Phases that these start from, directly: they have to be trained before, in the order of the plan."""
    wanted = {need for name in names for need in plan.phase(name).phase.needs} - set(names)
    return tuple(p.name for p in plan.phases if p.name in wanted)


class Found(NamedTuple):
    """What is there of a phase with these very settings."""

    state: Literal["trained", "begun", "nothing"]
    step: int = 0
    """After which it goes on."""
    aside: bool = False
    """Whether it lies beside, where other settings have taken its place."""
    elsewhere: PhaseFolder | None = None
    """Where another run has it."""


def finished(place: PhaseFolder, phase: PhasePlan, most: int) -> bool:
    """Whether this very phase was trained to its end and the weights of its last step are sound; a file of them has
    `most` bytes of arrays."""
    saved, _ = place.checkpoint(phase.key, most) if place.done(phase) else (None, [])
    return saved is not None and saved.step == (place.about.get("ended") or {}).get("step", phase.steps)


def found(folder: RunFolder, plan: Plan, phase: PhasePlan, reuse: bool = False) -> Found:
    """What a run holds of a phase whose data have been read, or where it may `reuse` it, another run beside it. Nothing
    is moved or written."""
    there = found_here(folder, plan, phase)
    begun = there.aside or folder.phase(phase.name).about.get("key") == phase.key  # though it has no checkpoint yet
    if reuse and there.state == "nothing" and not begun and (other := elsewhere_of(folder, plan, phase)):
        return Found("trained", phase.steps or 0, elsewhere=other)
    return there


def elsewhere_of(folder: RunFolder, plan: Plan, phase: PhasePlan) -> PhaseFolder | None:
    """Where another run has trained this very phase to its end."""
    most = checkpoint_bytes(plan, phase)[1]
    return trained_elsewhere(folder.path, phase.name, phase.key, lambda place: finished(place, phase, most))


def found_here(folder: RunFolder, plan: Plan, phase: PhasePlan) -> Found:
    """What the run itself holds."""
    place, most = folder.phase(phase.name), checkpoint_bytes(plan, phase)[1]
    if place.about.get("key") == phase.key:
        if finished(place, phase, most):
            return Found("trained", phase.steps or 0)
        saved, _ = place.checkpoint(phase.key, most)
        return Found("begun", saved.step) if saved else Found("nothing")
    ranks = [rank for kept in aside.kept_aside(place) if (rank := aside.trained(kept, phase.key)) is not None]
    if not ranks:
        return Found("nothing")
    done, step = max(ranks)
    return Found("trained" if done else "begun" if step else "nothing", step, aside=True)


def check_ancestors(folder: RunFolder, plan: Plan, selection: Selection) -> None:
    """Raises RunError where a phase that was asked for starts from one that was not, and is not trained."""
    names = chosen(plan, selection)
    problems = [
        Problem(
            f"{name} is not trained with these settings, and {selection.said} leaves it out",
            hint=f"--only {name} too, --from {name}, or neither",
            consequence="there would be no weights to start from",
        )
        for name in ancestors(plan, names)
        if found(folder, plan, plan.phase(name), selection.reuse).state != "trained"
    ]
    if problems:
        raise RunError(problems)
