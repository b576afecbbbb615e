"""What `run --certify` found, on the terminal."""

from __future__ import annotations

from llmspec.core.problems import Problem, RunError
from llmspec.core.units import size
from llmspec.render.terminal import Screen, Text, out
from llmspec.runs.certificate import Certificate, PhaseCertificate


def show(found: Certificate, console: Screen | None = None, stale: tuple[str, ...] = ()) -> None:
    """A line a phase; those in `stale` have other settings by now."""
    console = console or out()
    for phase in found.phases:
        verdict, style = ("goes on bit for bit", "green") if phase.holds else ("does not go on bit for bit", "red")
        line = Text.assemble(f"  {phase.name} ({phase.kind}) ", (verdict, style), f": {evidence(phase)}")
        console.print(line.append("; with other settings than now" if phase.name in stale else "", style="dim"))


def evidence(phase: PhaseCertificate) -> str:
    """How that was found."""
    after = " and ".join(map(str, phase.stopped_after)) or "none"
    said = f"stopped after step {after} of {phase.steps}, {size(phase.compared)} compared"
    return said if phase.holds else f"{said}; not equal: {', '.join(phase.differing)}"


def refuse(found: Certificate) -> None:
    """Raises RunError where a phase does not go on as it was."""
    problems = [
        Problem(
            f"{phase.name} does not go on bit for bit: {evidence(phase)}",
            hint="its task, or a part whose state no checkpoint holds, is at fault, not your spec: please report it",
            consequence="a run that was stopped would end with other weights than one that was not",
        )
        for phase in found.phases
        if not phase.holds
    ]
    if problems:
        raise RunError(problems)
