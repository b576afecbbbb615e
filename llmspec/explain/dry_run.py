"""What `llmspec run` would do now: which phases it trains, which it takes, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import RunError
from llmspec.explain.compare import phase_differences
from llmspec.explain.report import Report
from llmspec.forecast.estimates import Forecast, expected
from llmspec.runs.run import RunFolder
from llmspec.training.selection import Found, Selection, ancestors, chosen, found

Deed = Literal["taken", "goes on", "trained", "left out", "missing"]


@dataclass(frozen=True)
class PhaseDeed:
    """What becomes of one phase."""

    name: str
    kind: str
    deed: Deed
    why: str
    steps: int | None
    """Still to take."""
    seconds: float | None
    """That they are expected to take on this machine, where that is known."""


@dataclass(frozen=True)
class DryRunReport(Report):
    """What a run would do; nothing is written for it."""

    about: ClassVar[str] = "dry run"
    name: str
    path: str
    phases: tuple[PhaseDeed, ...]

    @property
    def seconds(self) -> float | None:
        """Of all that is to be trained; None where some of it is not known."""
        amounts = [p.seconds for p in self.phases if p.steps]
        return None if None in amounts else sum(a for a in amounts if a is not None)


def explain_dry_run(plan: Plan, folder: RunFolder, selection: Selection) -> DryRunReport:
    """The report of a plan whose data have been read, and of the folder that it would run into. Raises LlmspecError
    for a selection of phases that there are not, RunError where the folder is damaged."""
    names, times = chosen(plan, selection), expected(plan)
    before = earlier(folder)
    why = {d.name: d.why for d in phase_differences(before, plan)} if before else {}
    needed = ancestors(plan, names)
    deeds = []
    for phase in plan.phases:
        there = found(folder, plan, phase, selection.reuse)
        if phase.name not in names and not (phase.name in needed and there.state == "trained"):
            missing = phase.name in needed
            said = "is to be trained first" if missing else f"not among those of {selection.said}"
            deeds.append(PhaseDeed(phase.name, phase.phase.kind, "missing" if missing else "left out", said, 0, 0.0))
            continue
        deeds.append(deed_of(phase, there, why.get(phase.name, ""), before, times.get(phase.name)))
    return DryRunReport(plan.name, str(folder.path), tuple(deeds))


def deed_of(phase: PhasePlan, there: Found, why: str, before: Plan | None, time: Forecast | None) -> PhaseDeed:
    """What is done with one phase that is asked for."""
    kind, total = phase.phase.kind, phase.steps
    if there.state == "trained":
        said = "trained with these settings before; it is restored" if there.aside else "trained with these settings"
        if there.elsewhere is not None:
            said = f"trained with these settings in {there.elsewhere.folder}; it is copied from there"
        return PhaseDeed(phase.name, kind, "taken", said, 0, 0.0)
    went_on = phase.continued if there.state == "nothing" else None
    step = went_on.first if went_on else there.step
    left = None if total is None else total - step
    seconds = None if time is None or not total or left is None else time.total * left / total
    if went_on:
        said = "; ".join((f"from step {went_on.step:,} of {went_on.key[:8]}", *went_on.said))
        return PhaseDeed(phase.name, kind, "goes on", said, left, seconds)
    if there.state == "begun":
        said = f"after step {there.step:,}" + ("; it was set aside, and is restored" if there.aside else "")
        return PhaseDeed(phase.name, kind, "goes on", said, left, seconds)
    if before is None:
        said = "nothing is there yet"
    elif phase.name not in [p.name for p in before.phases]:
        said = "the run has no phase of this name yet"
    else:
        said = f"changed: {why}" if why else "it has no checkpoint yet"
    return PhaseDeed(phase.name, kind, "trained", said, left, seconds)


def earlier(folder: RunFolder) -> Plan | None:
    """The plan that lies in a folder; None where there is none, or none that this version reads."""
    if not (folder.path / "plan.json").is_file():
        return None
    try:
        return folder.plan()
    except RunError:
        return None
